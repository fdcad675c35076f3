// What several views are made of.

import { h, icon } from "./dom.js";

const SHAPES = {
  ERROR: "M5 1h6l4 4v6l-4 4H5l-4-4V5zM7.2 4v5h1.6V4zm0 6.4V12h1.6v-1.6z",
  STALE: "M8 1 15.5 14.5H.5zM7.3 6v4.2h1.4V6zm0 5.4v1.4h1.4v-1.4z",
  NOT_SENT: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zm0 1.8a5.2 5.2 0 1 0 0 10.4A5.2 5.2 0 0 0 8 2.8z",
  SYNCED: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zm3.2 4.2L7 9.4 4.9 7.3 3.8 8.4 7 11.6l5.3-5.3z",
};
const WORDS = { ERROR: "Error", STALE: "Stale", NOT_SENT: "Not sent", SYNCED: "Synced" };
const MEANING = {
  ERROR: "It has rejected something that it is meant to have",
  STALE: "Sent, or about to be sent, and not acknowledged yet",
  NOT_SENT: "Subscribed to, and nothing to tell so far",
  SYNCED: "It has acknowledged all that it is meant to have",
};
const LOOKS = {
  error: "ERROR", rejected: "ERROR", missing: "ERROR", different: "ERROR", unknown: "ERROR",
  blocked: "ERROR", absent: "ERROR", removed: "ERROR", refused: "ERROR", nack: "ERROR",
  warning: "STALE", waiting: "STALE", warming: "STALE", leaving: "STALE", sent: "STALE",
  partly: "STALE", problem: "STALE", stale: "STALE",
  "not subscribed": "NOT_SENT", "not served": "NOT_SENT", possible: "NOT_SENT", pool: "NOT_SENT", changed: "NOT_SENT",
  ok: "SYNCED", same: "SYNCED", known: "SYNCED", served: "SYNCED", added: "SYNCED", ack: "SYNCED",
};
export const STATES = Object.keys(WORDS);

/** A state as colour, shape and word. */
export function badge(state, word) {
  const look = WORDS[state] ? state : (LOOKS[state] ?? "NOT_SENT");
  const text = word ?? WORDS[state] ?? state;
  const title = WORDS[state] ? MEANING[state] : null;
  return h("span", { class: "badge", "data-look": look, title }, icon(SHAPES[look]), h("span", {}, text));
}

export function mark(state) {
  const look = WORDS[state] ? state : (LOOKS[state] ?? "NOT_SENT");
  return h("span", { class: "mark", "data-look": look }, icon(SHAPES[look]));
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function relative(iso, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (seconds < 1) return "just now";
  const i = UNITS.findIndex(([size]) => seconds >= size);
  const [size, unit] = UNITS[i];
  const whole = Math.floor(seconds / size);
  const rest = UNITS[i + 1] ? Math.floor((seconds % size) / UNITS[i + 1][0]) : 0;
  const detail = whole < 10 && rest && UNITS[i + 1][0] !== 1 ? ` ${rest} ${UNITS[i + 1][1]}` : "";
  return `${whole} ${unit}${detail} ago`;
}

/** How long ago; the time itself on hover. The app keeps it true. */
export function when(iso) {
  if (!iso) return h("span", { class: "dim" }, "never");
  const at = new Date(iso);
  const title = `${at.toLocaleString()} (${at.toISOString()})`;
  return h("time", { datetime: iso, title }, relative(iso));
}

export function tickTimes() {
  for (const time of document.querySelectorAll("main time")) {
    const text = relative(time.dateTime);
    if (time.textContent !== text) time.firstChild.nodeValue = text;
  }
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export function plural(count, noun, nouns = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : nouns}`;
}

const COPY = "M5 1h8a1 1 0 0 1 1 1v9h-1.5V2.5H5zM3 4h7a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zm.5 1.5v8h6v-8z";

export function copyButton(text, what = "Copy") {
  const label = `${what}: copy`;
  return h("button", {
    type: "button", class: "copy", title: "Copy", "aria-label": label,
    on: { click: (event) => {
      event.stopPropagation();
      copy(typeof text === "function" ? text() : text, event.currentTarget);
    } },
  }, icon(COPY));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure context there is no clipboard API.
    const area = h("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.dataset.done = "yes";
  announce("Copied");
  setTimeout(() => delete button.dataset.done, 1200);
}

export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** A version, short; all of it on hover. */
export function version(text) {
  if (!text) return h("span", { class: "dim" }, "–");
  return h("code", { class: "version", title: text }, text.slice(0, 8));
}

export function code(text) {
  return h("code", {}, text);
}

export function link(href, ...content) {
  return h("a", { href }, ...content);
}

/** Rows of values under headings. A column is [heading, class, cell]. The link of the first cell,
 * where it has one, stands for the row. On narrow screens each row becomes a block. */
export function table(label, columns, rows, key, extra = () => null) {
  return h("div", { class: "scroll", key: `table-${label}` },
    h("table", { "aria-label": label },
      h("thead", {}, h("tr", {},
        columns.map(([heading, className]) => h("th", { scope: "col", class: className }, heading)))),
      h("tbody", {}, rows.map((row) => [
        h("tr", { key: key(row), class: extra(row) ? "has-more" : null },
          columns.map(([heading, className, cell]) =>
            h("td", { class: className, "data-label": heading }, cell(row)))),
        extra(row) &&
          h("tr", { key: `${key(row)}\nmore`, class: "more" },
            h("td", { colspan: columns.length }, extra(row))),
      ]))));
}

export function card(title, tools, ...content) {
  return h("section", { class: "card", key: `card-${title}`, "aria-label": title },
    h("div", { class: "card-head" }, h("h2", {}, title), tools), content);
}

export function heading(title, ...beside) {
  return h("div", { class: "heading" }, h("h1", {}, title), beside);
}

export function facts(pairs) {
  return h("dl", { class: "facts" },
    pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function empty(text, ...more) {
  return h("div", { class: "empty" }, h("p", {}, text), more);
}

/** Text below which something is shown only if it has all words of the filter in it. */
export function matches(filter, ...texts) {
  const text = texts.join("\n").toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** The filter box of a view; its text is in the address. */
export function filterBox(context, what) {
  return h("input", {
    id: "filter", type: "search", class: "filter", placeholder: `Filter ${what}`,
    "aria-label": `Filter ${what}`, "aria-keyshortcuts": "/", autocomplete: "off",
    spellcheck: "false", value: context.filter,
    on: { input: (event) => context.setFilter(event.target.value) },
  });
}

/** A unified diff with its lines coloured, and marked for those who see no colours. */
export function diffView(text, key) {
  if (!text) return null;
  const lines = text.split("\n").map((line) => {
    const kind = line.startsWith("+++") || line.startsWith("---") ? "file"
      : line.startsWith("@@") ? "hunk"
      : line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : "same";
    return h("span", { class: `line ${kind}` }, line || " ");
  });
  return h("div", { class: "diff-box" }, copyButton(text, "Diff"),
    h("pre", { class: "diff", tabindex: "0", opaque: `${key}-${text.length}-${hash(text)}`, "aria-label": "Difference" },
      lines));
}

export function hash(text) {
  let value = 0;
  for (let i = 0; i < text.length; i += 1) value = (value * 31 + text.charCodeAt(i)) | 0;
  return value;
}

/** Parts of a whole as a bar. */
export function bar(parts) {
  const total = parts.reduce((sum, [, count]) => sum + count, 0);
  const label = parts.map(([look, count]) => `${count} ${WORDS[look] ?? look}`).join(", ");
  const box = h("div", { class: "bar", role: "img", "aria-label": label });
  for (const [look, count] of parts) {
    if (!count) continue;
    const part = h("span", { "data-look": look });
    part.style.flexGrow = String(count / total);
    box.append(part);
  }
  return box;
}

/** Problems as lines: what, where, and in which field. */
export function problemList(problems) {
  return h("ul", { class: "problems" }, problems.map((p) =>
    h("li", { class: "item", key: p.text },
      h("div", { class: "item-head" }, badge(p.severity, p.severity === "error" ? "Error" : "Warning"),
        h("strong", {}, p.object || p.source || "The source"),
        p.source && h("span", { class: "origin" }, p.line ? `${p.source}:${p.line}` : p.source),
        p.field && h("code", {}, p.field)),
      h("p", { class: "words" }, p.message))));
}

/** A number that leads to where it comes from. */
export function tile(name, value, href, below) {
  return h("a", { class: "tile", href, key: name },
    h("span", { class: "tile-name" }, name), h("span", { class: "tile-value" }, String(value)), h("span", { class: "tile-below" }, below));
}

/** A share of 1 as a bar with its number. */
export function meter(share, label, text = `${Math.round(share * 100)} %`) {
  const filled = h("span");
  filled.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  const look = share >= 0.95 ? "ERROR" : share >= 0.8 ? "STALE" : null;
  return h("span", { class: "meter" },
    h("span", { class: "meter-bar", role: "img", "aria-label": `${label}: ${text}`, "data-look": look }, filled),
    h("span", { class: "meter-text", "aria-hidden": "true" }, text));
}

/** Boxes to choose by; each choice is in the address. A field is [name, label,
 * options or null, what none of them means]. */
export function choices(context, fields) {
  const choose = (name, value) => {
    const url = new URL(location.href);
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
    context.navigate(url.href, { replace: true });
  };
  return h("form", { class: "choices", role: "search", key: "choices", on: { submit: (event) => event.preventDefault() } },
    fields.map(([name, label, options, none = "any"]) => {
      const id = `choice-${name}`;
      const chosen = context.query.get(name) ?? "";
      return h("div", { class: "field" }, h("label", { for: id }, label),
        options
          ? h("select", { id, name, on: { change: (event) => choose(name, event.target.value) } },
            h("option", { value: "", selected: !chosen }, none),
            options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)))
          : h("input", { id, name, type: "search", value: chosen, autocomplete: "off", spellcheck: "false", placeholder: "any",
            on: { change: (event) => choose(name, event.target.value.trim()) } }));
    }));
}
