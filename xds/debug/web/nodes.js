// Who is connected, and what each was sent, has acknowledged and rejects.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";
import {
  badge, bytes, card, copyButton, diffView, duration, empty, facts, filterBox, heading, link, mark, matches,
  plural, table, version, when,
} from "./parts.js";

const TYPES = [["listeners", "LDS"], ["routes", "RDS"], ["clusters", "CDS"], ["endpoints", "EDS"]];

export function nodeHref(id) {
  return `/ui/nodes/${encodeURIComponent(id)}`;
}

/** What a node says of its rejected resources, in Envoy's words. */
export function rejections(node) {
  const found = node.streams.flatMap((stream) => Object.entries(stream.types).flatMap(([type, one]) =>
    one.rejected.length
      ? one.rejected.map((r) => ({ ...r, type }))
      : one.error ? [{ type, name: "", message: one.error.message, at: one.error.at, origin: "" }] : []));
  if (!found.length) return null;
  return h("ul", { class: "rejections" }, found.map((r) =>
    h("li", { key: `${r.type}/${r.name}` },
      h("div", {}, h("code", {}, r.name ? `${r.type}/${r.name}` : r.type), " ",
        r.version_info === null && h("span", {}, "removal "), h("span", { class: "dim" }, "rejected ", when(r.at)),
        r.origin && [" ", origin(r.origin)]),
      h("p", { class: "words" }, r.message))));
}

export function origin(text) {
  return text ? h("span", { class: "origin", title: "Where it comes from" }, text) : null;
}

function perType(node, type) {
  for (const stream of node.streams) if (stream.types[type]) return stream.types[type];
  return null;
}

export const nodes = {
  title: () => "Nodes",
  topics: ["nodes"],
  load: (_context, signal) => get("/debug/xds/nodes", signal),

  draw({ nodes: all }, context) {
    const shown = all.filter((n) => matches(context.filter, n.id, n.cluster, n.group, n.state, n.locality, n.version ?? ""));
    return [
      heading("Nodes", h("span", { class: "dim" }, count(shown.length, all.length)), filterBox(context, "nodes")),
      all.length === 0
        ? empty("No Envoy is connected.", h("p", { class: "dim" }, "Give one the configuration that ", h("code", {}, "poolpilot bootstrap"), " prints, and look at its log if it does not come."))
        : shown.length === 0 ? empty("No node matches the filter.")
        : table("Nodes", [
          ["Node", "name", (n) => [h("a", { class: "row", href: nodeHref(n.id) }, n.id), h("div", { class: "dim" }, [n.cluster, n.locality].filter(Boolean).join(" · "))]],
          ["State", "", (n) => badge(n.state)],
          ...TYPES.map(([type, name]) => [name, "type", (n) => typeCell(perType(n, type))]),
          ["Group", "", (n) => n.group],
          ["Envoy", "", (n) => [n.version ?? h("span", { class: "dim" }, "unknown"), h("div", { class: "dim" }, [...new Set(n.streams.map((s) => s.protocol))].join(", "))]],
          ["Connected", "", (n) => when(n.streams.at(-1)?.opened_at)],
        ], shown, (n) => n.id, (n) => n.problem ? h("p", { class: "words" }, n.problem) : rejections(n)),
    ];
  },
};

function typeCell(one) {
  if (!one) return h("span", { class: "dim" }, "–");
  return h("span", { class: "type-cell" }, mark(one.state), h("span", { class: "unseen" }, one.state), version(one.acked?.version_info));
}

export function count(shown, all) {
  return shown === all ? String(all) : `${shown} of ${all}`;
}

export const node = {
  title: ({ params }) => params.id,
  topics: ["nodes"],

  async load(context, signal) {
    const admin = context.query.get("admin");
    const path = `/debug/xds/nodes/${pathOf(context.params.id)}`;
    const [found, diff] = await Promise.all([
      get(path, signal),
      get(`${path}/diff${admin ? `?admin=${encodeURIComponent(admin)}` : ""}`, signal)
        .catch((error) => { if (error.name === "AbortError") throw error; return { failed: error.message }; }),
    ]);
    return { found, diff };
  },

  draw({ found, diff }, context) {
    return [
      heading(found.id, copyButton(found.id, "Node id"), badge(found.state)),
      found.problem && h("section", { class: "card notice", "data-look": "ERROR", key: "problem" }, h("p", {}, found.problem)),
      facts([["Group", found.group], ["Cluster", found.cluster], ["Locality", found.locality], ["Envoy", found.version],
        ["Metadata", Object.keys(found.metadata).length ? h("code", {}, JSON.stringify(found.metadata)) : null]]),
      rejections(found) && h("section", { class: "card notice", "data-look": "ERROR", key: "rejected", "aria-label": "Rejected" },
        h("h2", {}, "Rejected"), rejections(found),
        h("p", { class: "dim" }, "It keeps what it had, and gets this again as soon as its content changes.")),
      found.streams.map((stream) => streamCard(stream)),
      differenceCard(found, diff, context),
      found.streams.map((stream) => logCard(stream)),
    ];
  },
};

function streamCard(stream) {
  const rows = Object.entries(stream.types);
  return card(`Stream ${stream.id}`, null,
    facts([["Protocol", `${stream.protocol}, ${stream.service}`], ["Peer", stream.peer], ["Connected", when(stream.opened_at)],
      ["Configuration", version(stream.wanted)], ["Rollout", stream.converged ? "done" : stream.phase],
      ["Certificate", stream.identities.join(", ")],
      ["Kept for routes in use", stream.kept_clusters.join(", ")]]),
    table(`Types on stream ${stream.id}`, [
      ["Type", "", ([type]) => h("strong", {}, type)],
      ["State", "", ([, t]) => badge(t.state)],
      ["Wanted", "", ([, t]) => version(t.wanted)],
      ["Sent", "", ([, t]) => t.sent ? [version(t.sent.version_info), " ", when(t.sent.at)] : "–"],
      ["ACKed", "", ([, t]) => t.acked ? [version(t.acked.version_info), " ", when(t.acked.at)] : "–"],
      ["Pending nonce", "", ([, t]) => t.pending_nonce ? h("code", {}, t.pending_nonce) : "–"],
      ["Subscribed", "num", ([, t]) => t.wildcard ? `all${t.legacy_wildcard ? " (legacy)" : ""}` : t.subscribed],
      ["Has", "num", ([, t]) => t.has],
      ["ACKs", "num", ([, t]) => t.acks],
      ["NACKs", "num", ([, t]) => t.nacks],
      ["Sent bytes", "num", ([, t]) => bytes(t.bytes_sent)],
    ], rows, ([type]) => type, ([, t]) => held(t)),
    h("details", { class: "more-details" }, h("summary", {}, "Names"), rows.map(([type, t]) => names(type, t))));
}

function held(one) {
  const found = Object.entries(one.held);
  if (!found.length) return null;
  return h("p", { class: "words" }, found.map(([name, cluster]) => `${name} is held back: it needs the cluster ${cluster}, which was rejected. `));
}

function names(type, one) {
  const found = Object.entries(one.resources ?? {});
  if (!found.length && !one.names.length) return null;
  const missing = one.names.filter((name) => name !== "*" && !one.resources[name]);
  return h("div", { key: type },
    h("h3", {}, type),
    h("ul", { class: "plain" }, found.map(([name, r]) => h("li", { key: name },
      h("code", {}, name), " ", r.has === r.wanted ? h("span", { class: "dim" }, "has ") : badge("waiting", r.has ? "has another version" : "does not have it"), " ", version(r.wanted), " ", origin(r.origin))),
    missing.map((name) => h("li", { key: name }, h("code", {}, name), " ", badge("warning", "asked for, does not exist")))));
}

function differenceCard(found, diff, context) {
  const admin = context.query.get("admin") ?? "";
  const form = h("form", { class: "inline", on: { submit: (event) => {
    event.preventDefault();
    const value = new FormData(event.target).get("admin").trim();
    context.navigate(nodeHref(found.id) + (value ? `?admin=${encodeURIComponent(value)}` : ""));
  } } },
  h("label", { for: "admin" }, "Envoy's admin"),
  h("input", { id: "admin", name: "admin", placeholder: "http://127.0.0.1:19000", value: admin, spellcheck: "false" }),
  h("button", { type: "submit" }, "Compare"));
  const title = admin ? "Wanted, acknowledged, and what Envoy has" : "Wanted and acknowledged";
  if (diff.failed) return card(title, form, h("p", { class: "words" }, diff.failed));
  const different = diff.resources.filter((r) => r.finding !== "same");
  const same = diff.resources.length - different.length;
  return card(title, form,
    different.length === 0
      ? h("p", {}, badge("same", "No difference"), ` ${plural(same, "resource")} ${admin ? "are the same everywhere" : "acknowledged as wanted"}.`)
      : [different.map((r) => h("article", { class: "item", key: `${r.type}/${r.name}` },
        h("div", { class: "item-head" }, badge(r.finding), h("code", {}, `${r.type}/${r.name}`),
          h("span", { class: "dim" }, "wanted ", version(r.wanted), " ACKed ", version(r.acked), diff.admin && [" Envoy ", version(r.envoy)])),
        r.error && !isShown(found, r) && h("p", { class: "words" }, r.error),
        r.acked_diff && h("details", { class: "more-details", open: r.acked !== null }, h("summary", {}, r.acked === null ? "What it is to get" : "From what it has to what it is to get"),
          diffView(r.acked_diff, `${r.name}-acked`)),
        r.envoy_diff && h("details", { class: "more-details", open: true }, h("summary", {}, "From what it acknowledged to what Envoy tells"), diffView(r.envoy_diff, `${r.name}-envoy`)))),
      h("p", { class: "dim" }, `${plural(same, "further resource is", "further resources are")} the same.`)]);
}

/** Whether the words of this rejection stand further up already. */
function isShown(found, resource) {
  return found.streams.some((s) => s.types[resource.type]?.rejected.some((r) => r.name === resource.name && r.message === resource.error));
}

function logCard(stream) {
  const rows = [...stream.log].map((entry, i) => ({ ...entry, key: `${entry.at} ${entry.direction} ${entry.type} ${entry.nonce} ${entry.kind}`, i })).reverse();
  return card(`Exchanges on stream ${stream.id}`, h("span", { class: "dim" }, "newest first"),
    rows.length === 0 ? empty("Nothing was said yet.") : table(`Exchanges on stream ${stream.id}`, [
      ["When", "", (e) => when(e.at)],
      ["What", "", (e) => e.direction === "sent" ? h("span", { class: "arrow" }, "→ sent") : e.kind === "nack" ? badge("nack", "NACK") : e.kind === "ack" ? badge("ack", "ACK") : h("span", { class: "arrow" }, `← ${e.kind}`)],
      ["Type", "", (e) => e.type],
      ["Nonce", "", (e) => e.nonce ? h("code", {}, e.nonce) : ""],
      ["Version", "", (e) => e.version_info ? version(e.version_info) : ""],
      ["Names", "wide", (e) => [e.names.join(", "), e.count > e.names.length && h("span", { class: "dim" }, ` (${e.count} in all)`), e.removed.length > 0 && h("span", {}, ` removed: ${e.removed.join(", ")}`)]],
      ["Size", "num", (e) => bytes(e.bytes)],
      ["Answered in", "num", (e) => e.latency_seconds === null ? "" : duration(e.latency_seconds)],
    ], rows, (e) => e.key, (e) => e.error ? h("p", { class: "words" }, e.error) : null));
}
