// What else there is to ask, for programs.

import { get } from "./api.js";
import { h } from "./dom.js";
import { filterBox, heading, matches, table } from "./parts.js";

/** `note`: how to have the answers. */
export const listing = (note) => ({
  title: () => "API",
  topics: null,
  load: (_context, signal) => get("/debug", signal),

  draw({ pages, see }, context) {
    const rows = Object.entries(pages ?? see).filter(([path, text]) => matches(context.filter, path, text));
    return [
      heading("API", h("span", { class: "dim" }, note), filterBox(context, "pages")),
      table("API", [
        ["Page", "name", ([path]) => /[{=]/.test(path) ? h("code", {}, path) : h("a", { class: "row", href: path }, h("code", {}, path))],
        ["What it tells", "wide", ([, text]) => text],
      ], rows, ([path]) => path),
      h("p", { class: "dim" }, "Nothing here changes anything. Secrets are never shown."),
    ];
  },
});
