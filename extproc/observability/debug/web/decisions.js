// Where requests were sent, why, and what happened then.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";
import { badge, card, choices, copyButton, duration, empty, facts, heading, link, mark, plural, table, when } from "./parts.js";
import { endpointHref } from "./fleet.js";

const OUTCOMES = [
  ["routed", "routed"], ["in-progress", "in progress"], ["failed", "routed, and failed"], ["refused", "refused"],
  ["shed", "refused: shed"], ["queue-full", "refused: queue full"], ["queue-timeout", "refused: waited for too long"],
  ["no-ready-endpoints", "refused: no endpoint"], ["no-pool-for-model", "refused: no pool for the model"],
];
const LIMIT = 100;

export const decisionHref = (d) => `/ui/decisions/${encodeURIComponent(d.id)}`;
const ms = (value) => (value >= 1 ? duration(value / 1000) : "–");
const count = (number) => number.toLocaleString("en");

/** How it came out: the status that the client got, or that it has none yet. */
function ending(d) {
  if (d.outcome !== "routed") return badge(d.status >= 500 ? "error" : "warning", `${d.status} ${d.outcome}`);
  const c = d.completed;
  if (!c) return badge("possible", "in progress");
  if (!c.code) return badge("warning", "hung up");
  return badge(c.code < 400 ? "ok" : "error", `${c.code} in ${duration(c.duration_s)}`);
}

function model(d) {
  const rewritten = d.target_model && d.target_model !== d.model;
  return [d.model || h("span", { class: "dim" }, "none"), rewritten && h("div", { class: "below" }, `as ${d.target_model}`)];
}

function where(d) {
  if (d.outcome !== "routed") return "–";
  const served = d.completed?.served;
  return [h("a", { href: endpointHref(d.endpoints[0]) }, d.endpoints[0]),
    d.prefill_endpoint && h("div", { class: "below" }, `prefilled at ${d.prefill_endpoint}`),
    served && served !== d.endpoints[0] && h("div", { class: "below" }, `served by ${served}`)];
}

/** The steps that left candidates out, with how many each kept. */
function narrowed(d) {
  let left = d.candidates;
  const steps = [];
  for (const step of d.steps) {
    if (step.kept > 0 && step.kept < left) {
      left = step.kept;
      steps.push(`${step.name} ${left}`);
    }
  }
  return h("span", { class: "dim" }, [String(d.candidates), ...steps].join(" → "));
}

export function decisionTable(label, rows) {
  return table(label, [
    ["Decision", "name", (d) => [h("a", { class: "row", href: decisionHref(d) }, d.id), h("div", { class: "below" }, when(`${d.at}Z`))]],
    ["Model", "", model],
    ["Pool", "", (d) => d.pool ?? "–"],
    ["Sent to", "", where],
    ["Came out", "verdict-cell", ending],
    ["Waited", "num", (d) => ms(d.queued_ms)],
    ["Cached", "num", (d) => d.prompt_tokens ? `${Math.round((100 * d.cached_tokens) / d.prompt_tokens)} % of ${count(d.prompt_tokens)}` : "–"],
    ["Narrowed", "wide", narrowed],
  ], rows, (d) => d.id);
}

export const decisions = {
  title: () => "Decisions",
  topics: ["decisions"],
  async load(context, signal) {
    const { local, query } = context;
    if (local.paused && local.last) return local.last;
    const asked = new URLSearchParams([...query].filter(([name]) => ["pool", "endpoint", "model", "outcome"].includes(name)));
    asked.set("limit", LIMIT);
    const [{ decisions: found }, { pools }] = await Promise.all([get(`/debug/decisions?${asked}`, signal), get("/debug/pools", signal)]);
    local.last = { found, pools, asked: asked.size > 1 };
    return local.last;
  },

  draw({ found, pools, asked }, context) {
    const { local } = context;
    return [
      heading("Decisions", h("span", { class: "dim" }, "newest first"),
        h("button", { type: "button", id: "pause", "aria-pressed": String(Boolean(local.paused)), on: { click: () => {
          local.paused = !local.paused;
          context.redraw();
          if (!local.paused) context.reload();
        } } }, local.paused ? "Go on" : "Hold still")),
      choices(context, [
        ["pool", "Pool", pools.map((pool) => [pool.pool, pool.pool])],
        ["outcome", "Outcome", OUTCOMES], ["endpoint", "Endpoint", null], ["model", "Model", null],
      ]),
      found.length ? decisionTable("Decisions", found)
        : asked ? empty("None of the last decisions is like that.") : empty("No request was picked for yet."),
      found.length === LIMIT && h("p", { class: "dim" }, `The last ${LIMIT}; /debug/decisions?limit= tells more.`),
    ];
  },
};

export const decision = {
  title: ({ params }) => `Decision ${params.id}`,
  topics: ["decisions"],
  async load(context, signal) {
    // What has ended does not change any more.
    const { last } = context.local;
    if (last && (last.completed || last.outcome !== "routed")) return last;
    context.local.last = await get(`/debug/decisions/${pathOf(context.params.id)}`, signal);
    return context.local.last;
  },

  draw(d) {
    return [
      heading(`Decision ${d.id}`, copyButton(d.id, "Id"), h("span", { class: "dim" }, when(`${d.at}Z`))),
      h("section", { class: "verdict", "data-look": look(d), key: "verdict" }, h("h2", {}, ending(d), sentence(d))),
      card("The request", null, facts([
        ["Request id", d.request_id], ["Pool", d.pool], ["Model", d.model], ["Sent as", d.target_model !== d.model ? d.target_model : null],
        ["Priority", String(d.priority)], ["Profile", link("/ui/profiles", d.profile || "–")],
        ["Waited in the queue", d.queued_ms ? ms(d.queued_ms) : "not at all"], ["Decided in", `${d.decided_in_us} µs`],
        ["Prompt tokens, about", d.prompt_tokens === undefined ? null : count(d.prompt_tokens)],
        ["Cached at the pick", d.cached_tokens === undefined ? null : count(d.cached_tokens)],
        ["Output tokens expected", d.expected_output_tokens === undefined ? null : count(d.expected_output_tokens)],
      ])),
      card("What happened then", null, then(d)),
      d.considered ? [stepCard(d), candidateCard(d)]
        : card("Candidates", null, empty(d.candidates ? "They were not kept: of large pools, only one decision in 16 keeps them." : "There were no endpoints to choose from.",
          d.steps.length > 0 && h("p", { class: "dim" }, narrowed(d)))),
    ];
  },
};

function look(d) {
  if (d.outcome !== "routed") return "ERROR";
  if (!d.completed) return "NOT_SENT";
  return d.completed.code && d.completed.code < 400 ? "SYNCED" : "ERROR";
}

function sentence(d) {
  if (d.outcome !== "routed") return h("span", {}, d.message);
  const [first, ...others] = d.endpoints;
  return h("span", {}, "Sent to ", h("a", { href: endpointHref(first) }, first), others.length > 0 && `, or else ${others.join(", ")}`,
    d.prefill_endpoint && `; prefilled at ${d.prefill_endpoint}`);
}

function then(d) {
  if (d.outcome !== "routed") return h("p", {}, "The client was told so at once.");
  const c = d.completed;
  if (!c) return h("p", {}, "It has not ended yet, or nobody reported its end.");
  return facts([
    ["Answered", c.code ? String(c.code) : "the client hung up before"], ["By", c.served || "nobody"], ["After", duration(c.duration_s)],
    ["First byte after", c.time_to_first_byte_s === null ? null : duration(c.time_to_first_byte_s)],
    ["Attempts", c.attempts], ["Envoy's flags", c.flags.join(", ")],
    ["Prompt tokens", c.prompt_tokens], ["Of them cached", c.cached_tokens], ["Output tokens", c.completion_tokens],
  ].map(([name, value]) => [name, typeof value === "number" ? count(value) : value]));
}

function few(keys) {
  if (!keys?.length) return "";
  return [keys.slice(0, 4).join(", "), keys.length > 4 && h("span", { class: "dim", title: keys.join("\n") }, ` and ${keys.length - 4} more`)];
}

function stepCard(d) {
  return card("Steps", h("span", { class: "dim" }, `${plural(d.candidates, "candidate")} to begin with`),
    d.steps.length === 0 ? empty("Nothing was filtered.") : table("Steps", [
      ["Step", "name", (s) => h("strong", {}, s.name)],
      ["Kept", "num", (s) => s.note ?? String(s.kept.length)],
      ["Left out", "wide", (s) => few(s.removed)],
      ["Because", "wide", (s) => s.because ?? ""],
    ], d.steps, (s) => s.name));
}

function candidateCard(d) {
  const scorers = d.scored_by ?? [];
  const steps = d.steps.filter((s) => s.removed?.length).map((s) => ({ ...s, keys: new Set(s.kept), gone: new Set(s.removed) }));
  const total = d.scores ?? {};
  const picked = d.endpoints?.[0];
  const rows = [...d.considered].sort((a, b) => (total[b.endpoint] ?? -1) - (total[a.endpoint] ?? -1)
    || (b.endpoint === picked) - (a.endpoint === picked) || a.endpoint.localeCompare(b.endpoint));
  const score = (value) => (value === undefined ? "–" : value.toFixed(3));
  return card("Candidates", h("span", { class: "dim" }, "as they were at that moment; the best first"), table("Candidates", [
    ["Endpoint", "name", (c) => [h("a", { class: c.endpoint === picked ? "row picked" : "row", href: endpointHref(c.endpoint) }, c.endpoint), c.endpoint === picked && [" ", badge("ok", "Picked")]]],
    ["Queue", "num", (c) => count(c.queue)],
    ["KV cache", "num", (c) => `${Math.round(c.kv_usage * 100)} %`],
    ["In flight", "num", (c) => count(c.in_flight)],
    ["To prefill", "num", (c) => count(c.prefill_tokens)],
    ["Cached", "num", (c) => count(c.cached_tokens)],
    ...steps.map((s) => [s.name, "", (c) => s.keys.has(c.endpoint) ? [mark("ok"), h("span", { class: "unseen" }, "kept")]
      : s.gone.has(c.endpoint) ? [mark("error"), h("span", { class: "below" }, " left out")] : h("span", { class: "dim" }, "–")]),
    ...scorers.map((s) => [`${s.scorer} ×${s.weight}`, "num", (c) => score(s.scores[c.endpoint])]),
    ...(d.scores ? [["Total", "num", (c) => h("strong", {}, score(total[c.endpoint]))]] : []),
  ], rows, (c) => c.endpoint));
}
