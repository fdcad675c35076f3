// A JSON value as a tree that folds.

import { h } from "./dom.js";
import { copyButton, hash } from "./parts.js";

const OPEN_DEPTH = 4;
const MANY = 60;

/** `key` and the content decide whether the tree on the page is kept as the reader has it. */
export function jsonView(value, key) {
  const text = JSON.stringify(value, null, 2);
  return h("div", { class: "json-box" },
    h("div", { class: "json-tools" },
      h("button", { type: "button", class: "small", on: { click: (e) => fold(e, true) } }, "Unfold all"),
      h("button", { type: "button", class: "small", on: { click: (e) => fold(e, false) } }, "Fold all"),
      copyButton(text, "JSON")),
    h("div", { class: "json", tabindex: "0", role: "group", "aria-label": "Content", opaque: `${key}-${text.length}-${hash(text)}` },
      node(null, value, 0)));
}

function fold(event, open) {
  const tree = event.currentTarget.closest(".json-box");
  if (open) {
    // What was never opened has no content yet, so each round may bring new ones.
    let closed;
    while ((closed = tree.querySelectorAll("details:not([open])")).length) {
      for (const details of closed) {
        details.open = true;
        details.fill?.();
      }
    }
    return;
  }
  for (const details of tree.querySelectorAll("details details")) details.open = false;
}

function node(name, value, depth) {
  const label = name === null ? null : [h("span", { class: "j-key" }, name), ": "];
  if (value === null || typeof value !== "object") {
    return h("div", { class: "j-leaf" }, label, scalar(value));
  }
  const isList = Array.isArray(value);
  const entries = isList ? value.map((item, i) => [String(i), item]) : Object.entries(value);
  if (!entries.length) return h("div", { class: "j-leaf" }, label, isList ? "[]" : "{}");
  const body = h("div", { class: "j-body" });
  const details = h("details", {},
    h("summary", {}, label, h("span", { class: "j-hint" }, hint(value, isList, entries))), body);
  // Thousands of endpoints are made only when somebody wants to see them.
  details.fill = () => {
    if (!body.firstChild) {
      body.append(...entries.map(([key, item]) => node(isList ? `${key}` : key, item, depth + 1)));
    }
  };
  details.addEventListener("toggle", () => details.open && details.fill());
  if (depth < OPEN_DEPTH && entries.length <= MANY) {
    details.open = true;
    details.fill();
  }
  return details;
}

function hint(value, isList, entries) {
  if (isList) return `[${entries.length}]`;
  const named = value.name ?? value.cluster_name ?? value["@type"]?.split(".").pop() ?? value.key;
  return named && typeof named === "string" ? `{ ${named} }` : `{ ${entries.map(([k]) => k).slice(0, 3).join(", ")}${entries.length > 3 ? ", …" : ""} }`;
}

function scalar(value) {
  const kind = value === null ? "null" : typeof value;
  return h("span", { class: `j-${kind}` }, JSON.stringify(value));
}
