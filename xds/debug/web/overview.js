// Is everything all right? If not, what is it?

import { get } from "./api.js";
import { h } from "./dom.js";
import { badge, bar, card, duration, empty, facts, heading, link, plural, problemList, STATES, tile, when } from "./parts.js";
import { rejections, nodeHref } from "./nodes.js";
import { changesLine, convergence, entryHref, kindOfEnvoy } from "./history.js";

const MOST = 6;

export const overview = {
  title: () => "Overview",
  topics: ["world", "nodes", "history", "snapshots"],

  async load(_context, signal) {
    const [status, { nodes }] = await Promise.all([
      get("/debug/xds/status", signal), get("/debug/xds/nodes", signal),
    ]);
    let problems = [];
    if (status.revision !== null) ({ problems } = await get("/debug/world", signal));
    return { status, nodes, problems };
  },

  draw({ status, nodes, problems }) {
    const [look, sentence] = verdict(status, problems);
    const errors = nodes.filter((node) => node.state === "ERROR" || node.problem);
    return [
      h("section", { class: "verdict", "data-look": look, key: "verdict", "aria-live": "polite" },
        h("h1", {}, badge(look, { ERROR: "Needs you", STALE: "Look", SYNCED: "Fine", NOT_SENT: "Waiting" }[look]), sentence)),
      h("div", { class: "tiles", key: "tiles" },
        tile("Envoys", status.nodes.total, "/ui/nodes", nodeParts(status)),
        tile("Pools", status.pools, "/ui/world", [`${plural(status.endpoints, "endpoint")}, ${plural(status.routes, "route")}`]),
        tile("Problems", status.problems.error + status.problems.warning, "/ui/world#problems",
          [status.problems.error ? badge("error", plural(status.problems.error, "error")) : null,
            status.problems.warning ? badge("warning", plural(status.problems.warning, "warning")) : null,
            status.problems.error + status.problems.warning ? null : badge("ok", "None")]),
        tile("Revision", status.revision ?? "–", "/ui/history", [h("span", {}, "up since ", when(status.started_at))])),
      errors.length > 0 && card("Envoys that need attention",
        errors.length > MOST && link("/ui/nodes", `All ${errors.length}`),
        errors.slice(0, MOST).map((node) =>
          h("article", { class: "item", key: node.id },
            h("div", { class: "item-head" }, badge(node.state), h("a", { class: "row", href: nodeHref(node.id) }, node.id),
              h("span", { class: "dim" }, node.group)),
            node.problem && h("p", { class: "words" }, node.problem), rejections(node)))),
      status.kept.length > 0 && card("Older configurations that stay", null,
        status.kept.map((one) => h("article", { class: "item", key: one.group },
          h("div", { class: "item-head" }, badge("STALE", "Kept"), h("strong", {}, one.group)),
          h("p", { class: "words" }, one.problem)))),
      problems.length > 0 && card("Problems in what was read", problems.length > MOST && link("/ui/world", `All ${problems.length}`),
        problemList(problems.slice(0, MOST))),
      card("Last change", link("/ui/history", "History"),
        status.last_changes.length
          ? status.last_changes.map((entry) =>
            h("article", { class: "item", key: `${entry.group} ${entry.id}` },
              h("div", { class: "item-head" }, h("a", { class: "row", href: entryHref(entry.group, entry) }, entry.cause || "changed"),
                kindOfEnvoy(entry), h("span", { class: "dim" }, when(entry.at))),
              h("p", { class: "dim" }, `${entry.group}: `, changesLine(entry)), convergence(entry)))
          : empty("No Envoy has been told anything yet.",
            h("p", { class: "dim" }, "Start one with ", h("code", {}, "poolpilot bootstrap > envoy.yaml && envoy -c envoy.yaml"), "."))),
      facts([["Server", status.identifier], ["Streams refused", status.refused_streams || null]]),
    ];
  },
};

function verdict(status, problems) {
  if (status.not_ready) return ["ERROR", `Not ready: ${status.not_ready}`];
  const { ERROR = 0, STALE = 0, NOT_SENT = 0, total } = status.nodes;
  if (ERROR) return ["ERROR", `${plural(ERROR, "Envoy rejects", "Envoys reject")} configuration`];
  if (status.problems.error) return ["ERROR", `${plural(status.problems.error, "error")} in the manifests: ${problems.find((p) => p.severity === "error")?.object || "something"} is not in effect`];
  if (status.kept.length) return ["ERROR", "The newest configuration cannot be used; the last good one stays"];
  if (!total) return ["NOT_SENT", "No Envoy is connected"];
  if (STALE) return ["STALE", `${plural(STALE, "Envoy has", "Envoys have")} not acknowledged everything yet`];
  if (NOT_SENT === total) return ["NOT_SENT", "No Envoy was told anything yet"];
  const warnings = status.problems.warning ? `, with ${plural(status.problems.warning, "warning")}` : "";
  return ["SYNCED", `${total === 1 ? "The Envoy has" : `All ${total} Envoys have`} the newest configuration${warnings}`];
}

function nodeParts(status) {
  const parts = STATES.map((state) => [state, status.nodes[state] ?? 0]).filter(([, count]) => count);
  if (!parts.length) return [h("span", { class: "dim" }, "none connected")];
  return [bar(parts), h("div", { class: "badges" }, parts.map(([state, count]) =>
    badge(state, `${count} ${{ ERROR: "error", STALE: "stale", NOT_SENT: "not sent", SYNCED: "synced" }[state]}`)))];
}
