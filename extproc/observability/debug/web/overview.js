// Is everything all right? If not, what is it?

import { get } from "./api.js";
import { h } from "./dom.js";
import { badge, bar, card, empty, link, meter, plural, problemList, table, tile } from "./parts.js";
import { decisionTable } from "./decisions.js";
import { absentTable, endpointTable, standing } from "./fleet.js";
import { fileProblems } from "./profiles.js";

const MOST = 6;
const LOOK_WORDS = { ERROR: "Needs you", STALE: "Look", SYNCED: "Fine", NOT_SENT: "Waiting" };

export const overview = {
  title: () => "Overview",
  topics: ["fleet", "world", "decisions", "profiles"],

  async load({ local }, signal) {
    const [fleet, { decisions: refused }, { decisions: failed }] = await Promise.all([
      get("/debug/fleet", signal), get(`/debug/decisions?outcome=refused&limit=${MOST}`, signal),
      get(`/debug/decisions?outcome=failed&limit=${MOST}`, signal),
    ]);
    return { fleet, rate: rate(local, fleet.decisions), failed: [...refused, ...failed].sort((a, b) => (a.at < b.at ? 1 : -1)).slice(0, MOST) };
  },

  draw({ fleet, rate: perSecond, failed }) {
    const [look, sentence] = verdict(fleet);
    const { endpoints, problems, absent } = fleet;
    const trouble = endpoints.filter((e) => standing(e).rank < 4).sort((a, b) => standing(a).rank - standing(b).rank);
    const well = endpoints.length - endpoints.filter((e) => standing(e).rank < 3).length;
    const errors = problems.filter((p) => p.severity === "error").length;
    return [
      h("section", { class: "verdict", "data-look": look, key: "verdict", "aria-live": "polite" },
        h("h1", {}, badge({ ERROR: "error", STALE: "warning", SYNCED: "ok", NOT_SENT: "possible" }[look], LOOK_WORDS[look]), sentence)),
      h("div", { class: "tiles", key: "tiles" },
        tile("Endpoints in use", `${well} / ${endpoints.length}`, "/ui/fleet", [bar([["SYNCED", well], ["ERROR", endpoints.length - well]]), absent.length > 0 && h("span", {}, `${absent.length} not ready`)]),
        tile("In flight", fleet.open_requests.toLocaleString("en"), "/ui/fleet?sort=in_flight", [h("span", {}, `${plural(sum(endpoints, "queue"), "request")} in their queues`)]),
        tile("Decisions", perSecond === null ? fleet.decisions.toLocaleString("en") : `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} /s`, "/ui/decisions", [h("span", {}, `${fleet.decisions.toLocaleString("en")} so far`)]),
        tile("Problems", problems.length, "/ui#problems", [errors ? badge("error", plural(errors, "error")) : null, problems.length > errors ? badge("warning", plural(problems.length - errors, "warning")) : null, problems.length ? null : badge("ok", "None")]),
        tile("Prefix index", fleet.prefix_index.entries.toLocaleString("en"), "/ui/fleet", [meter(fleet.prefix_index.entries / fleet.prefix_index.max_entries, "Prefix index"), h("span", {}, `blocks of ${fleet.prefix_index.block_tokens}`)])),
      fleet.error && card("The newest configuration was not taken over", null, h("p", { class: "words" }, fleet.error)),
      fileProblems(fleet.profiles),
      card("Pools", link("/ui/fleet", "Fleet"), fleet.pools.length === 0
        ? empty("No InferencePool is known.", h("p", { class: "dim" }, "Describe one in the manifests, or in Kubernetes."))
        : poolTable(fleet)),
      trouble.length > 0 && card("Endpoints in trouble", trouble.length > MOST && link("/ui/fleet", `All ${trouble.length}`), endpointTable("Endpoints in trouble", trouble.slice(0, MOST), fleet.prefix_index)),
      absent.length > 0 && card("Servers that are not in use", absent.length > MOST && link("/ui/fleet", `All ${absent.length}`), absentTable("Servers that are not in use", absent.slice(0, MOST))),
      problems.length > 0 && h("div", { id: "problems", key: "problems" }, card("Problems in what was read", null, problemList(problems))),
      failed.length > 0 && card("Requests that went wrong", link("/ui/decisions", "All decisions"), decisionTable("Requests that went wrong", failed)),
      h("p", { class: "dim", key: "revision" }, `Configuration revision ${fleet.revision ?? "–"}`),
    ];
  },
};

const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);

function rate(local, number) {
  const now = performance.now();
  const before = local.seen;
  if (!before || now - before.at >= 900 || number < before.number) {
    local.rate = before && number >= before.number ? (1000 * (number - before.number)) / (now - before.at) : null;
    local.seen = { at: now, number };
  }
  return local.rate;
}

function verdict(fleet) {
  if (fleet.revision === null) return ["NOT_SENT", "Nothing was read yet"];
  if (!fleet.ready) return ["ERROR", "Not ready: it is stopping"];
  if (fleet.error) return ["ERROR", "The newest configuration was not taken over; the one before stays"];
  const empties = fleet.pools.filter((pool) => !pool.ready.length);
  if (empties.length) return ["ERROR", `${empties[0].pool} has no ready endpoint${empties.length > 1 ? `, and ${empties.length - 1} more pools have none` : ""}`];
  const errors = fleet.problems.filter((p) => p.severity === "error");
  if (errors.length) return ["ERROR", `${plural(errors.length, "error")} in what was read: ${errors[0].object || "something"} is not in effect`];
  if (fleet.profiles?.problems.length) return ["ERROR", "The profiles file cannot be used as it is"];
  const out = fleet.endpoints.filter((e) => standing(e).rank < 2);
  if (out.length) return ["STALE", `${plural(out.length, "endpoint")} out of picks or returning`];
  if (!fleet.pools.length) return ["NOT_SENT", "No InferencePool is known"];
  return ["SYNCED", `All ${plural(fleet.endpoints.length, "endpoint")} in use${fleet.absent.length ? `, ${plural(fleet.absent.length, "server")} not ready` : ""}`];
}

function poolTable(fleet) {
  return table("Pools", [
    ["Pool", "name", (p) => h("a", { class: "row", href: `/ui/fleet?pool=${encodeURIComponent(p.pool)}` }, p.pool)],
    ["Ready", "num", (p) => `${p.ready.length} / ${p.endpoints.length}`],
    ["In flight", "num", (p) => p.in_flight.toLocaleString("en")],
    ["Queue", "num", (p) => sum(of(fleet, p), "queue").toLocaleString("en")],
    ["KV cache, mean", "tight", (p) => p.endpoints.length ? meter(sum(of(fleet, p), "kv_usage_assumed") / p.endpoints.length, "KV cache, mean") : "–"],
    ["Profile", "", (p) => link("/ui/profiles", p.profile)],
    ["Fails", "", (p) => (p.failure_mode === "FailOpen" ? "open" : "closed")],
    ["Models", "wide", (p) => p.models.slice(0, 6).map((name) => h("span", { class: "chip" }, name))],
    ["From", "", (p) => h("span", { class: "origin" }, p.origin ?? "")],
  ], fleet.pools, (p) => p.pool);
}

const of = (fleet, pool) => fleet.endpoints.filter((e) => e.pools.includes(pool.pool));
