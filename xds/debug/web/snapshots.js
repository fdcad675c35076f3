// What Envoys get, and where each part of it comes from.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";
import { jsonView } from "./json.js";
import { badge, bytes, card, copyButton, empty, facts, filterBox, heading, link, matches, plural, table, version } from "./parts.js";
import { count, origin } from "./nodes.js";

function groupHref(group, snapshotVersion) {
  return `/ui/snapshots/${encodeURIComponent(group)}${snapshotVersion ? `?version=${snapshotVersion}` : ""}`;
}

export function resourceHref(group, type, name, snapshotVersion) {
  return `/ui/snapshots/${encodeURIComponent(group)}/${type}/${encodeURIComponent(name)}${snapshotVersion ? `?version=${snapshotVersion}` : ""}`;
}

export const snapshots = {
  title: () => "Snapshots",
  topics: ["snapshots"],
  load: (_context, signal) => get("/debug/xds/snapshots", signal),

  draw({ snapshots: all }) {
    const several = new Set(all.map((s) => s.group)).size < all.length;
    return [
      heading("Snapshots", h("span", { class: "dim" }, "what each group of Envoys gets")),
      all.length === 0 ? empty("There is no configuration yet.", h("p", { class: "dim" }, "Nothing was read from the source so far; the overview says why.")) :
      all.map((s, i) => card(s.group, s.problem ? badge("STALE", "Older one kept") : badge("ok", "Current"),
        h("p", {}, h("a", { class: "row", href: groupHref(s.group, several ? s.version : "") },
          s.version ? ["Configuration ", version(s.version)] : "No configuration yet"),
        h("span", { class: "dim" }, ` ${s.cause ?? ""}`)),
        s.problem && h("p", { class: "words" }, s.problem),
        h("p", { class: "badges" }, Object.entries(s.counts ?? {}).map(([type, number]) => h("span", { class: "chip" }, `${number} ${type}`))),
        s.lacking.length > 0 && h("details", { class: "more-details" }, h("summary", {}, `For Envoys that lack ${plural(s.lacking.length, "feature")}`), list(s.lacking)),
        notes(s)))
        .map((element, i) => { element.dataset.key = `${all[i].group} ${i}`; return element; }),
    ];
  },
};

function notes(s) {
  const found = (s.notes ?? []).filter((note) => !(s.lacking ?? []).includes(note));
  return found.length > 0 && h("div", {}, h("h3", {}, "Not as described"), list(found));
}

function list(texts) {
  return h("ul", {}, texts.map((text) => h("li", { key: text }, text)));
}

/** Resources of all types in one table. */
export function resourceTable(resources, context, href) {
  const all = Object.entries(resources).flatMap(([type, named]) => Object.entries(named).map(([name, r]) => ({ type, name, ...r })));
  const shown = all.filter((r) => matches(context.filter, r.type, r.name, r.origin));
  return [
    h("div", { class: "bar-tools" }, filterBox(context, "resources"), h("span", { class: "dim" }, count(shown.length, all.length))),
    shown.length === 0 ? empty("No resource matches the filter.") : table("Resources", [
      ["Type", "", (r) => r.type],
      ["Name", "name", (r) => href ? h("a", { class: "row", href: href(r) }, r.name) : h("code", {}, r.name)],
      ["Version", "", (r) => version(r.version_info)],
      ["Size", "num", (r) => bytes(r.bytes)],
      ["From", "wide", (r) => origin(r.origin)],
    ], shown, (r) => `${r.type}/${r.name}`),
  ];
}

export const snapshot = {
  title: ({ params }) => params.group,
  topics: ["snapshots"],
  load: ({ params, query }, signal) => get(`/debug/xds/snapshots/${pathOf(params.group)}${version_of(query)}`, signal),

  draw(s, context) {
    return [
      heading(s.group, s.version ? ["Configuration ", version(s.version), copyButton(s.version, "Version")] : "no configuration yet",
        link(`/debug/xds/config_dump?group=${encodeURIComponent(s.group)}`, "as a config dump")),
      facts([["Because", s.cause]]),
      s.problem && h("section", { class: "card notice", "data-look": "STALE", key: "problem" }, h("h2", {}, "An older configuration is kept"), h("p", { class: "words" }, s.problem)),
      s.lacking.length > 0 && card("For Envoys that lack something", null, list(s.lacking)),
      notes(s) && card("Not as described", null, list(s.notes.filter((n) => !s.lacking.includes(n)))),
      s.resources && resourceTable(s.resources, context, (r) => resourceHref(s.group, r.type, r.name, context.query.get("version"))),
    ];
  },
};

function version_of(query) {
  const wanted = query.get("version");
  return wanted ? `?version=${encodeURIComponent(wanted)}` : "";
}

export const resource = {
  title: ({ params }) => params.name,
  topics: ["snapshots"],
  load: ({ params, query }, signal) => get(`/debug/xds/snapshots/${pathOf(params.group, params.type, params.name)}${version_of(query)}`, signal),

  draw(r, context) {
    const { group, type } = context.params;
    return [
      heading(r.name, copyButton(r.name, "Name"), h("span", { class: "dim" }, type)),
      facts([["From", origin(r.origin)], ["Version", version(r.version_info)], ["Size", bytes(r.bytes)],
        ["Group", link(groupHref(group), group)],
        ["Needs", r.needs.length ? r.needs.map((need, i) => {
          const [kind, ...name] = need.split("/");
          return [i > 0 && ", ", link(resourceHref(group, kind, name.join("/"), context.query.get("version")), need)];
        }) : null]]),
      card("Content", link(`/debug/xds/snapshots/${pathOf(group, type, r.name)}?format=yaml`, "YAML"), jsonView(r.resource, r.name)),
    ];
  },
};
