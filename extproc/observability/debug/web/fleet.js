// Every endpoint: what it says of itself, what is counted here, and how it has fared.

import { get } from "./api.js";
import { h } from "./dom.js";
import { badge, card, choices, duration, empty, facts, filterBox, heading, link, matches, meter, plural, table } from "./parts.js";
import { decisionTable } from "./decisions.js";

export const endpointHref = (key) => `/ui/fleet/${encodeURIComponent(key)}`;

const FAULTS = {
  "connect-failure": "connections failed", reset: "it reset connections", "5xx": "it answered with 5xx",
  "passed-over": "no connection, or it answered with 503", "scrape-failure": "its metrics could not be fetched", "health-check": "health checks fail",
  asleep: "it sleeps or is paused", stalled: "its engine does not work on what it was sent",
};

/** Colour, word and reason of an endpoint's standing; `rank` sorts the worst first. */
export function standing(e) {
  if (e.standing === "out") return { rank: 0, look: "error", word: "Out", why: FAULTS[e.last_fault] ?? e.last_fault };
  if (e.standing === "returning") return { rank: 1, look: "warning", word: `Returning, ${Math.round(e.share * 100)} %`, why: FAULTS[e.last_fault] ?? e.last_fault };
  if (e.draining) return { rank: 2, look: "warning", word: "Draining", why: "gets no new requests" };
  if (e.scrape_error) return { rank: 3, look: "warning", word: "No metrics", why: e.scrape_error };
  const [trouble] = Object.entries(e.troubles);
  if (trouble) return { rank: 3, look: "warning", word: "In", why: trouble.join(": ") };
  return { rank: 4, look: "ok", word: "In", why: e.fresh ? "" : "its metrics are too old to go by" };
}

const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });
const SORTS = {
  trouble: ["Trouble first", (a, b) => standing(a).rank - standing(b).rank || byName(a, b)],
  in_flight: ["In flight", (a, b) => b.in_flight - a.in_flight],
  queue: ["Queue", (a, b) => b.queue - a.queue],
  kv: ["KV cache", (a, b) => b.kv_usage_assumed - a.kv_usage_assumed],
  prefill: ["To prefill", (a, b) => b.prefill_tokens - a.prefill_tokens],
  name: ["Name", byName],
};

const count = (number) => number.toLocaleString("en");

function adapters(e) {
  const names = e.adapters_loaded;
  if (!names.length) return e.max_adapters ? h("span", { class: "dim" }, `none of ${e.max_adapters}`) : "";
  return [names.slice(0, 3).map((name) => h("span", { class: "chip", title: name }, name)),
    names.length > 3 && h("span", { class: "dim", title: names.join("\n") }, `and ${names.length - 3} more`)];
}

function age(e) {
  const ages = Object.values(e.age_s);
  if (!ages.length) return h("span", { class: "dim" }, "never");
  return duration(Math.max(...ages));
}

export function endpointTable(label, rows, index) {
  return table(label, [
    ["Endpoint", "name", (e) => [h("a", { class: "row", href: endpointHref(e.endpoint) }, e.name), h("div", { class: "below" }, e.endpoint)]],
    ["Standing", "verdict-cell", (e) => {
      const s = standing(e);
      return [badge(s.look, s.word), s.why && h("div", { class: "below" }, s.why)];
    }],
    ["In flight", "num", (e) => count(e.in_flight)],
    ["Queue", "num", (e) => [count(e.queue), e.waiting === null && h("span", { class: "dim", title: "The server does not say; assumed from the others" }, " ?")]],
    ["Running", "num", (e) => e.running === null ? "–" : count(e.running)],
    ["KV cache", "tight", (e) => meter(e.kv_usage_assumed, "KV cache", e.kv_usage === null ? "?" : undefined)],
    ["To prefill", "num", (e) => count(e.prefill_tokens)],
    ["Prefix index", "num", (e) => index.entries ? [count(e.prefix_entries), h("div", { class: "below" }, `${Math.round((100 * e.prefix_entries) / index.entries)} %`)] : "–"],
    ["Adapters", "", adapters],
    ["Scraped", "num", age],
  ], rows, (e) => e.endpoint);
}

/** Those that could be endpoints and are none. */
export function absentTable(label, rows) {
  return table(label, [
    ["Server", "name", (a) => [h("strong", {}, a.name), a.address && h("div", { class: "below" }, a.address)]],
    ["Why nothing is sent to it", "wide", (a) => a.reason],
    ["From", "", (a) => h("span", { class: "origin" }, a.origin ?? "")],
  ], rows, (a) => `${a.pool} ${a.name} ${a.reason}`);
}

export const fleet = {
  title: () => "Fleet",
  topics: ["fleet", "world"],
  load: (_context, signal) => get("/debug/fleet", signal),

  draw(f, context) {
    const wanted = context.query.get("pool");
    const sort = SORTS[context.query.get("sort")]?.[1] ?? SORTS.trouble[1];
    const pools = f.pools.filter((pool) => !wanted || pool.pool === wanted);
    const absent = f.absent.filter((a) => matches(context.filter, a.name, a.address ?? "", a.reason, a.pool ?? ""));
    const nowhere = absent.filter((a) => !f.pools.some((pool) => pool.pool === a.pool));
    return [
      heading("Fleet", h("span", { class: "dim" }, `${plural(f.endpoints.length, "endpoint")}, ${plural(f.open_requests, "request")} in flight`),
        filterBox(context, "endpoints, labels, adapters")),
      choices(context, [
        ["pool", "Pool", f.pools.map((pool) => [pool.pool, pool.pool]), "all"],
        ["sort", "Order", Object.entries(SORTS).slice(1).map(([name, [text]]) => [name, text]), SORTS.trouble[0]],
      ]),
      f.pools.length === 0 && empty("No InferencePool is known.", h("p", { class: "dim" }, "Describe one in the manifests, or in Kubernetes.")),
      pools.map((pool) => poolCard(pool, f, absent, sort, context)),
      nowhere.length > 0 && !wanted && card("In no pool", h("span", { class: "dim" }, count(nowhere.length)), absentTable("In no pool", nowhere)),
    ];
  },
};

function poolCard(pool, f, absent, sort, context) {
  const all = f.endpoints.filter((e) => e.pools.includes(pool.pool));
  const shown = all.filter((e) => matches(context.filter, e.endpoint, e.name, pool.pool, standing(e).word, ...e.adapters_loaded, ...Object.entries(e.labels).map(([k, v]) => `${k}=${v}`)));
  const missing = absent.filter((a) => a.pool === pool.pool);
  return card(pool.pool,
    h("span", { class: "dim" }, context.filter ? `${shown.length} of ${all.length}` : `${pool.ready.length} of ${plural(all.length, "endpoint")} ready, profile `, !context.filter && link("/ui/profiles", pool.profile)),
    all.length === 0 ? empty("It has no endpoint: every request for it is answered with 503.")
      : shown.length === 0 ? empty("No endpoint matches the filter.")
      : endpointTable(`Endpoints of ${pool.pool}`, [...shown].sort(sort), f.prefix_index),
    missing.length > 0 && [h("h3", {}, `Not in use: ${missing.length}`), absentTable(`Not in use in ${pool.pool}`, missing)]);
}

export const endpoint = {
  title: ({ params }) => params.key,
  topics: ["fleet", "decisions"],
  async load({ params }, signal) {
    const [f, { decisions }] = await Promise.all([
      get("/debug/fleet", signal),
      get(`/debug/decisions?limit=25&endpoint=${encodeURIComponent(params.key)}`, signal),
    ]);
    return { found: f.endpoints.find((e) => e.endpoint === params.key), f, decisions };
  },

  draw({ found: e, decisions }, { params }) {
    if (!e) return [heading(params.key), empty("There is no such endpoint, or not any more.", h("p", {}, link("/ui/fleet", "All endpoints")))];
    const s = standing(e);
    return [
      heading(e.name, badge(s.look, s.word), h("span", { class: "dim" }, e.endpoint)),
      s.why && h("p", { class: "words", key: "why" }, s.why),
      card("What it says", h("span", { class: "dim" }, e.scrape_error ?? `scraped ${plural(e.scrapes, "time")}, ${e.scrape_failures} failed`), facts([
        ["Running", e.running], ["Waiting", e.waiting], ["KV cache", e.kv_usage === null ? null : meter(e.kv_usage, "KV cache")],
        ["Adapters", e.adapters.join(", ")], ["Adapters that wait", e.adapters_waiting.join(", ")], ["Room for adapters", e.max_adapters],
        ["KV blocks", e.kv_blocks && `${count(e.kv_blocks)} of ${e.kv_block_size} tokens`],
        ["Time to first token", e.time_to_first_token_s === null ? null : duration(e.time_to_first_token_s)], ["Oldest signal", age(e)],
      ])),
      card("What picks see", null, facts([
        ["In flight", e.in_flight], ["Their prompt tokens", count(e.in_flight_tokens)], ["Tokens to prefill", count(e.prefill_tokens)],
        ["Output tokens expected", count(e.expected_output_tokens)], ["Queue", e.queue], ["Sent since the last scrape", e.sent_since_scrape],
        ["KV cache assumed", meter(e.kv_usage_assumed, "KV cache assumed")], ["Adapters loaded", e.adapters_loaded.join(", ")],
        ["Prefix blocks", `${count(e.prefix_entries)} of ${count(e.prefix_capacity)}`], ["What it has cached", e.prefix_told ? "it says itself" : "is guessed"], ["Picked so far", count(e.picked)],
        ["Error rate", `${(e.error_rate * 100).toFixed(1)} %`], ["Times taken out", e.ejections || null],
        ["Pools", e.pools.map((name, i) => [i > 0 && ", ", link(`/ui/fleet?pool=${encodeURIComponent(name)}`, name)])],
        ["Labels", Object.entries(e.labels).map(([k, v]) => h("span", { class: "chip" }, `${k}=${v}`))],
      ])),
      card("Last decisions for it", link(`/ui/decisions?endpoint=${encodeURIComponent(e.endpoint)}`, "All"),
        decisions.length ? decisionTable("Last decisions for it", decisions) : empty("None of the last decisions picked it.")),
    ];
  },
};
