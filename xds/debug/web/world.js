// What the source says: pools, their endpoints, routes, and what is wrong with it.

import { get } from "./api.js";
import { h } from "./dom.js";
import { badge, card, empty, filterBox, heading, link, matches, plural, problemList, table } from "./parts.js";

function from(value) {
  if (!value?.source) return null;
  return h("span", { class: "origin" }, value.line ? `${value.source}:${value.line}` : value.source);
}

export const world = {
  title: () => "World",
  topics: ["world"],
  load: (_context, signal) => get("/debug/world", signal),

  draw(w, context) {
    const pools = Object.entries(w.pools).filter(([name, pool]) =>
      matches(context.filter, name, pool.origin?.source ?? "", ...pool.endpoints.map((e) => `${e.key} ${e.name}`)));
    const absent = w.absent.filter((a) => matches(context.filter, a.name, a.address, a.pool, a.reason));
    const routes = w.routes.filter((r) => matches(context.filter, r.name, JSON.stringify(r.rules), ...r.hostnames));
    return [
      heading("World", h("span", { class: "dim" }, `revision ${w.revision}, as it was read from the source`), filterBox(context, "pools, pods, routes")),
      w.problems.length > 0 && card("Problems", h("span", { class: "dim", id: "problems" }, String(w.problems.length)), problemList(w.problems)),
      card("Pools", h("span", { class: "dim" }, String(pools.length)),
        pools.length === 0
          ? empty(Object.keys(w.pools).length ? "No pool matches the filter." : "No InferencePool is described.", !Object.keys(w.pools).length && h("p", { class: "dim" }, "Put one into the directory of manifests; docs/manifests.md shows how."))
          : pools.map(([name, pool]) => poolItem(name, pool, context))),
      absent.length > 0 && card("Servers that are not in use", h("span", { class: "dim" }, String(absent.length)), absentTable("Servers that are not in use", absent)),
      (w.routes.length > 0 || w.gateways.length === 0) && card("Routes", h("span", { class: "dim" }, String(routes.length)),
        w.routes.length === 0 ? empty("No HTTPRoute is described: requests reach the pools by themselves.") :
        table("Routes", [
          ["Route", "name", (r) => h("strong", {}, r.name)],
          ["Hosts", "", (r) => r.hostnames.join(", ") || "any"],
          ["Matches and backends", "wide", (r) => r.rules.map((rule) => h("div", {}, rule.matches.map(matchText).join(" or "), " → ", backends(rule)))],
          ["From", "", (r) => from(r.origin)],
        ], routes, (r) => r.name)),
      w.gateways.length > 0 && card("Gateways", null, table("Gateways", [
        ["Gateway", "name", (g) => h("strong", {}, g.name)],
        ["Listeners", "wide", (g) => g.listeners.map((l) => `${l.name} ${l.protocol}:${l.port}${l.hostname ? ` (${l.hostname})` : ""}`).join(", ")],
        ["From", "", (g) => from(g.origin)],
      ], w.gateways, (g) => g.name)),
      objects("Objectives", w.objectives, [["Pool", "", (o) => o.pool], ["Priority", "num", (o) => String(o.priority)]]),
      objects("Rewrites", w.rewrites, [["Pool", "", (o) => o.pool], ["Rules", "wide", (o) => o.rules.map((r) => `${r.models.join(", ") || "any model"} → ${r.targets.map((t) => t.name).join(", ")}`).join("; ")]]),
      objects("Models", w.models, [["Pool", "", (o) => o.pool], ["Model", "", (o) => o.model_name], ["Criticality", "", (o) => o.criticality], ["Targets", "wide", (o) => o.targets.map((t) => `${t.name} (${t.weight})`).join(", ")]]),
    ];
  },
};

function absentTable(label, rows) {
  return table(label, [
    ["Server", "name", (a) => [h("a", { class: "row", href: `/ui/why?q=${encodeURIComponent(a.name)}`, title: "Why is it not there?" }, a.name), a.address && h("div", { class: "below" }, a.address)]],
    ["Pool", "", (a) => a.pool],
    ["Why nothing is sent to it", "wide", (a) => a.reason],
    ["From", "", (a) => h("span", { class: "origin" }, a.origin)],
  ], rows, (a) => `${a.pool} ${a.name} ${a.reason}`);
}

function poolItem(name, pool, context) {
  const all = pool.endpoints;
  const byPod = context.filter && !matches(context.filter, name) ? all.filter((e) => matches(context.filter, e.key, e.name, name)) : all;
  return h("details", { class: "item", key: name, open: all.length <= 24 || Boolean(context.filter) },
    h("summary", { class: "item-head" }, h("strong", {}, name),
      all.length ? h("span", { class: "chip" }, plural(all.length, "endpoint")) : badge("warning", "No endpoints"),
      h("span", { class: "chip" }, pool.failure_mode === "FailOpen" ? "fails open" : "fails closed"),
      pool.picker && h("span", { class: "chip" }, `picker ${pool.picker.name}${pool.picker.port ? `:${pool.picker.port}` : ""}`),
      from(pool.origin)),
    byPod.length > 0 && table(`Endpoints of ${name}`, [
      ["Endpoint", "name", (e) => h("a", { class: "row", href: `/ui/why?q=${encodeURIComponent(e.key)}`, title: "Why is it there?" }, e.key)],
      ["Name", "", (e) => e.name],
      ["State", "", (e) => e.draining ? badge("warning", "Draining") : badge("ok", "In use")],
      ["Labels", "wide", (e) => Object.entries(e.labels).map(([k, v]) => h("span", { class: "chip" }, `${k}=${v}`))],
      ["From", "", (e) => h("span", { class: "origin" }, e.origin)],
    ], byPod, (e) => e.key));
}

function matchText(match) {
  const parts = [`${{ Exact: "=", PathPrefix: "", RegularExpression: "~" }[match.path.type]}${match.path.value}`];
  if (match.method) parts.unshift(match.method);
  for (const one of [...match.headers, ...match.query]) parts.push(`${one.name}${one.type === "Exact" ? "=" : "~"}${one.value}`);
  return parts.join(" ");
}

function backends(rule) {
  if (!rule.backends.length) return "nothing";
  const total = rule.backends.reduce((sum, b) => sum + b.weight, 0);
  return rule.backends.map((b) => `${b.name}${rule.backends.length > 1 && total ? ` ${Math.round((100 * b.weight) / total)} %` : ""}`).join(", ");
}

function objects(title, all, columns) {
  return all.length > 0 && card(title, null, table(title, [["Name", "name", (o) => h("strong", {}, o.name)], ...columns, ["From", "", (o) => from(o.origin)]], all, (o) => o.name));
}
