// Who waits, and whose turn it is.

import { get } from "./api.js";
import { h } from "./dom.js";
import { bytes, card, code, duration, empty, heading, meter, plural, table } from "./parts.js";

export const queues = {
  title: () => "Queues",
  topics: ["queues", "profiles"],
  load: (_context, signal) => get("/debug/queues", signal),

  draw({ admission, queues: pools }) {
    const waiting = pools.reduce((sum, pool) => sum + pool.waiting, 0);
    return [
      heading("Queues", admission === "on" && h("span", { class: "dim" }, `${plural(waiting, "request")} waiting`)),
      admission === "off" ? empty("Admission is off: every request is sent on at once.", h("p", { class: "dim" }, "A profiles file turns it on with a section ", code("admission"), "; docs/admission.md shows how."))
        : pools.length === 0 ? empty("No request has come yet.")
        : pools.map(poolCard),
    ];
  },
};

function poolCard(pool) {
  return card(pool.pool, h("span", { class: "dim" }, `full by ${pool.measured_by}; ${pool.ends_per_second.toFixed(1)} requests end in a second`),
    h("p", {}, "Saturation ", pool.saturation === null ? h("span", { class: "dim" }, "unknown: no endpoint") : meter(pool.saturation, "Saturation")),
    pool.bands.length === 0 ? empty("Nobody had to wait yet.") : table(`Bands of ${pool.pool}`, [
      ["Priority", "num", (b) => String(b.priority)],
      ["Waiting", "num", (b) => `${b.waiting.toLocaleString("en")} of ${b.max_requests.toLocaleString("en")}`],
      ["Bytes", "num", (b) => `${bytes(b.bytes)} of ${bytes(b.max_bytes)}`],
      ["Waits at saturation", "num", (b) => b.waits_at_saturation.toFixed(2)],
      ["Between flows", "", (b) => b.fairness], ["Within a flow", "", (b) => b.order],
      ["Flows", "num", (b) => b.flows.toLocaleString("en")],
    ], pool.bands, (b) => String(b.priority), (b) => b.longest_flows.length > 0 && flows(pool, b)));
}

function flows(pool, band) {
  return h("details", { class: "more-details", open: band.waiting > 0 }, h("summary", {}, "Longest flows"),
    table(`Flows of ${pool.pool} at ${band.priority}`, [
      ["Flow", "name", (f) => f.flow || h("span", { class: "dim" }, "(none named)")],
      ["Waiting", "num", (f) => f.waiting.toLocaleString("en")],
      ["Oldest", "num", (f) => f.oldest_s === null ? "–" : duration(f.oldest_s)],
      ["Sent and open", "num", (f) => f.dispatched_and_open.toLocaleString("en")],
    ], band.longest_flows, (f) => f.flow));
}
