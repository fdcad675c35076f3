// Pages that answer a question: why, and what if.

import { get } from "./api.js";
import { h } from "./dom.js";
import { badge, card, empty, heading, link, table, version, when } from "./parts.js";
import { nodeHref } from "./nodes.js";
import { resourceTable } from "./snapshots.js";

function form(context, path, fields, submit) {
  return h("form", { class: "ask", role: "search", key: `form-${path}`, on: { submit: (event) => {
    event.preventDefault();
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(event.target)) if (value.trim()) query.set(name, value.trim());
    context.navigate(`/ui/${path}?${query}`);
  } } },
  fields.map(([name, label, placeholder, type = "text", value = context.query.get(name) ?? ""]) =>
    h("div", { class: "field" }, h("label", { for: `field-${name}` }, label),
      h("input", { id: `field-${name}`, name, type, placeholder, value, autocomplete: "off", spellcheck: "false", autofocus: fields[0][0] === name && !context.query.get(name) }))),
  h("button", { type: "submit" }, submit));
}

export const why = {
  title: ({ query }) => (query.get("q") ? `Why ${query.get("q")}` : "Why"),
  topics: ["world", "nodes", "snapshots"],
  load: async ({ query }, signal) => query.get("q") ? get(`/debug/xds/why?q=${encodeURIComponent(query.get("q"))}`, signal) : null,

  draw(found, context) {
    return [
      heading("Why is a pod there, or not?"),
      form(context, "why", [["q", "Pod, host, address, or address:port", "10.0.0.7:8000", "search"]], "Ask"),
      found === null
        ? empty("Ask for a pod by its name or address.", h("p", { class: "dim" }, "The answer follows it from its manifest to each Envoy, or says where it got lost."))
        : [
          h("section", { class: "verdict", "data-look": look(found.verdict), key: "answer", "aria-live": "polite" }, h("h2", {}, badge(found.verdict, found.verdict), found.summary)),
          found.matches.map((one) => matchCard(one)),
          found.omitted > 0 && h("p", { class: "dim" }, `${found.omitted} more match; ask for one of them by its full name.`),
          found.absence.length > 0 && card(found.verdict === "absent" ? "Reasons" : "It may be in one of these", null, found.absence.map((one) => h("article", { class: "item", key: one.text }, h("div", { class: "item-head" }, badge(one.reason)), h("p", { class: "words" }, one.text)))),
          found.departures.length > 0 && card("When it left", null, table("Departures", [
            ["When", "", (d) => when(d.at)], ["Endpoint", "name", (d) => `${d.endpoint} (${d.name})`], ["Pool", "", (d) => d.pool],
            ["Why", "wide", (d) => d.cause], ["Was described by", "", (d) => h("span", { class: "origin" }, d.origin)],
          ], found.departures, (d) => d.at + d.endpoint)),
          found.similar.length > 0 && card("Did you mean", null, h("p", { class: "badges" }, found.similar.map((name) => h("a", { class: "chip row", href: `/ui/why?q=${encodeURIComponent(name)}` }, name)))),
        ],
    ];
  },
};

function look(verdict) {
  return { served: "SYNCED", partly: "STALE", absent: "ERROR", unknown: "ERROR", "not served": "ERROR" }[verdict];
}

function matchCard(one) {
  return card(`${one.endpoint} · ${one.name}`, h("span", { class: "dim" }, one.pool),
    h("ol", { class: "steps" }, one.steps.map((step, i) => h("li", { key: `${step.step} ${i}`, class: "item" },
      h("div", { class: "item-head" }, badge(step.state, step.step), h("span", {}, step.text)))),
    one.nodes.map((node) => h("li", { key: node.id, class: "item" },
      h("div", { class: "item-head" }, badge(node.state), link(nodeHref(node.id), node.id), h("span", {}, node.text), node.at && h("span", { class: "dim" }, when(node.at)))))),
    one.nodes.length === 0 && h("p", { class: "dim" }, "No Envoy that is to have it is connected."));
}

export const simulate = {
  title: () => "Simulate",
  topics: ["world", "snapshots"],
  load: async ({ query }, signal) => {
    const asked = new URLSearchParams([...query].filter(([key]) => key !== "filter" && key !== "metadata"));
    for (const pair of (query.get("metadata") ?? "").split(",").filter((text) => text.includes("="))) {
      const [key, ...value] = pair.trim().split("=");
      asked.set(`metadata.${key}`, value.join("="));
    }
    return asked.size ? get(`/debug/xds/simulate?${asked}`, signal) : null;
  },

  draw(found, context) {
    return [
      heading("What would a node get?"),
      form(context, "simulate", [
        ["id", "Node id", "envoy-1"], ["cluster", "Cluster", "edge"], ["gateway", "Gateway", "default/edge"],
        ["version", "Envoy version", "1.38.0"], ["metadata", "Metadata", "zone=a, team=b"],
      ], "Simulate"),
      found === null ? empty("Describe a node; leave out what does not matter.")
        : found.snapshot === null ? empty(`Nothing: such a node belongs to the group “${found.group}” and would wait.`, h("p", { class: "dim" }, "Name a Gateway that exists."))
        : [
          h("p", { key: "result" }, "Group ", h("strong", {}, found.group), ", configuration ", version(found.version), " ", h("span", { class: "dim" }, found.cause)),
          found.notes.length > 0 && card("Left out or replaced for such a node", null, h("ul", {}, found.notes.map((note) => h("li", { key: note }, note)))),
          resourceTable(found.resources, context, null),
        ],
    ];
  },
};
