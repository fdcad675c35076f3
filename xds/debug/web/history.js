// What changed, why, and who has it since when.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";
import { badge, bar, card, diffView, duration, empty, filterBox, heading, link, matches, plural, table, version, when } from "./parts.js";
import { nodeHref, origin } from "./nodes.js";

export function entryHref(group, entry) {
  return `/ui/history/${encodeURIComponent(group)}/${encodeURIComponent(entry.id)}`;
}

/** A group has one configuration for each kind of Envoy in it. */
export function kindOfEnvoy(entry) {
  const lacking = entry.notes.filter((note) => note.startsWith("this Envoy lacks")).length;
  return lacking > 0 && h("span", { class: "chip", title: entry.notes.join("\n") }, `for Envoys that lack ${plural(lacking, "feature")}`);
}

export function changesLine(entry) {
  const parts = Object.entries(entry.changes).map(([type, c]) => {
    const counts = [c.added.length && `+${c.added.length}`, c.changed.length && `~${c.changed.length}`, c.removed.length && `−${c.removed.length}`];
    return `${type} ${counts.filter(Boolean).join(" ")}`;
  });
  return parts.join(", ") || "no resource is different";
}

export function convergence(entry) {
  const c = entry.convergence;
  if (!c.nodes) return h("p", { class: "dim" }, "No Envoy was connected for it.");
  const done = c.acked === c.nodes;
  return h("div", { class: "convergence" },
    bar([["SYNCED", c.acked], ["STALE", c.nodes - c.acked]]),
    h("span", {}, `${c.acked} of ${c.nodes} have it`, done && c.all_seconds !== null && ` after ${duration(c.all_seconds)}`,
      entry.waiting_for.length > 0 && [", waiting for ", entry.waiting_for.slice(0, 3).map((id, i) => [i > 0 && ", ", link(nodeHref(id), id)]), entry.waiting_for.length > 3 && ` and ${entry.waiting_for.length - 3} more`]));
}

export const history = {
  title: () => "History",
  topics: ["history", "nodes"],
  load: (_context, signal) => get("/debug/xds/history", signal),

  draw({ groups }, context) {
    return [
      heading("History", filterBox(context, "changes")),
      !groups.some((group) => group.history.length) && empty("Nothing has been sent yet.", h("p", { class: "dim" }, "A history begins when the first Envoy connects.")),
      groups.filter((group) => group.history.length).map((group) => {
        const shown = group.history.filter((e) => matches(context.filter, e.cause, e.version, JSON.stringify(e.changes)));
        return card(group.group, h("span", { class: "dim" }, plural(group.nodes, "node")),
          shown.length === 0 ? empty("No change matches the filter.") :
          h("ol", { class: "timeline" }, shown.map((entry) =>
            h("li", { class: "item", key: entry.id, "data-look": entry.waiting_for.length ? "STALE" : "SYNCED" },
              h("div", { class: "item-head" },
                h("a", { class: "row", href: entryHref(group.group, entry) }, entry.cause || "changed"),
                kindOfEnvoy(entry), h("span", { class: "dim" }, when(entry.at), " · ", version(entry.version))),
              h("p", { class: "dim" }, changesLine(entry)),
              entry.problems.map((text) => h("p", { class: "words" }, text)),
              convergence(entry)))));
      }),
    ];
  },
};

export const historyEntry = {
  title: ({ params }) => `Change ${params.entry.slice(0, 8)}`,
  topics: ["history"],
  load: ({ params }, signal) => get(`/debug/xds/history/${pathOf(params.group, params.entry)}`, signal),

  draw(entry, context) {
    const acks = Object.entries(entry.acked_after_seconds);
    const c = entry.convergence;
    return [
      heading(entry.cause || "Change", kindOfEnvoy(entry), h("span", { class: "dim" }, entry.group, " · ", when(entry.at), " · ", version(entry.version))),
      entry.problems.length > 0 && h("section", { class: "card notice", "data-look": "STALE", key: "problems" },
        h("h2", {}, "Problems"), entry.problems.map((text) => h("p", { class: "words" }, text))),
      card("Who has it", c.acked > 1 && c.p50_seconds !== null && h("span", { class: "dim" }, `half after ${duration(c.p50_seconds)}`, c.p95_seconds !== null && `, 95 % after ${duration(c.p95_seconds)}`),
        convergence(entry),
        acks.length > 0 && h("details", { class: "more-details", open: acks.length <= 12 }, h("summary", {}, plural(acks.length, "acknowledgement")),
          table("Acknowledgements", [
            ["Node", "name", ([id]) => h("a", { class: "row", href: nodeHref(id) }, id)],
            ["Had all of it after", "num", ([, seconds]) => duration(seconds)],
          ], acks, ([id]) => id))),
      entry.notes.length > 0 && card("Left out or replaced", null, h("ul", {}, entry.notes.map((note) => h("li", { key: note }, note)))),
      card("What changed", entry.resources.length > 5 && filterBox(context, "resources"),
        entry.resources.length === 0 ? empty("No resource is different from before.") :
        entry.resources.filter((r) => matches(context.filter, r.type, r.name)).map((r, i) =>
          h("details", { class: "item", key: `${r.type}/${r.name}`, open: i < 8 && r.diff.length < 40000 },
            h("summary", { class: "item-head" }, badge(r.change), h("code", {}, `${r.type}/${r.name}`), origin(r.origin)),
            r.complete ? diffView(r.diff, r.name) : h("p", { class: "dim" }, "The form before is no longer remembered.")))),
    ];
  },
};
