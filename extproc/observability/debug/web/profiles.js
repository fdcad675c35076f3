// How endpoints are chosen, and what the picker was started with.

import { get } from "./api.js";
import { h } from "./dom.js";
import { badge, card, empty, facts, heading, table } from "./parts.js";
import { jsonView } from "./json.js";

/** Mistakes in the profiles file: what it said before stays in force. */
export function fileProblems(file) {
  if (!file?.problems.length) return null;
  return h("section", { class: "card notice", "data-look": "ERROR", role: "alert", key: "file-problems" },
    h("h2", {}, "The profiles file cannot be used as it is"),
    h("p", { class: "dim" }, `What ${file.file} said before stays in force.`),
    file.problems.map((text) => h("p", { class: "words" }, text)));
}

export const profiles = {
  title: () => "Profiles",
  topics: ["profiles", "world"],
  load: (_context, signal) => get("/debug/profiles", signal),

  draw({ file, in_force: pools }) {
    return [
      heading("Profiles", h("span", { class: "dim" }, file ? `from ${file.file}; an edit takes effect at once` : "built in; --profiles names a file")),
      fileProblems(file),
      Object.keys(pools).length === 0 && empty("No InferencePool is known."),
      Object.entries(pools).map(([pool, profile]) => card(pool, h("span", { class: "chip" }, profile.name), steps(pool, profile),
        profile.prefill && [h("h3", {}, `Prefill elsewhere, from ${profile.prefill.min_uncached_tokens} uncached tokens`), steps(`${pool} prefill`, profile.prefill.profile)])),
    ];
  },
};

function steps(pool, profile) {
  const rows = [
    ...profile.filters.map((f) => ({ kind: "Filter", name: f.name, text: [f.because, ...Object.entries(f.reasons).map(([step, why]) => `${step}: ${why}`)].filter(Boolean).join("; ") })),
    ...profile.scorers.map((s) => ({ kind: "Scorer", name: s.name, text: `weight ${s.weight}` })),
    { kind: "Picker", name: profile.picker, text: "" },
  ];
  return table(`Profile of ${pool}`, [
    ["Step", "name", (r) => h("strong", {}, r.name)],
    ["Kind", "", (r) => r.kind],
    ["What it leaves out, or weighs", "wide", (r) => r.text],
  ], rows, (r) => `${r.kind} ${r.name}`);
}

export const config = {
  title: () => "Config",
  topics: ["world"],
  load: async (_context, signal) => ({ ...(await get("/debug/config", signal)), about: await get("/debug", signal) }),

  draw({ config: value, about }) {
    return [
      heading("Config", h("span", { class: "dim" }, "what this picker was started with")),
      facts([["State", about.ready ? badge("ok", "Ready") : badge("error", "Not ready")], ["Up since", new Date(`${about.started_at}Z`).toLocaleString()], ["Revision", about.world?.revision ?? "none yet"]]),
      card("Settings", null, value ? jsonView(value, "config") : empty("Unknown.")),
    ];
  },
};
