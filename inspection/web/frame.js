// The page: addresses, keys, live updates. Views only load and draw.

import { Failure, listen } from "./api.js";
import { h, icon, replaceChildren } from "./dom.js";
import { announce, tickTimes } from "./parts.js";

/** The pages of one server. `nav` is [name, path, key] of each page that the bar leads to, `routes`
 * [parts of the path, view]: a route's first part is literal, further ones are parameters. */
let nav = [];
let routes = [];
const main = document.getElementById("main");
const help = document.getElementById("help");

let current = null; // { view, context, data }
let loading = null; // AbortController of the request that counts
let again = false; // Something changed while loading.

// Where we are.

function locate() {
  const parts = location.pathname.split("/").slice(1).filter(Boolean).map(decodeURIComponent);
  if (parts[0] === "ui" || parts[0] === "debug") parts.shift();
  if (parts[0] === "xds") parts.shift();
  for (const [names, view] of routes) {
    const literal = names.slice(0, 1);
    if (names.length === parts.length && literal.every((name, i) => parts[i] === name)) {
      const params = Object.fromEntries(names.slice(1).map((name, i) => [name, parts[i + 1]]));
      return { view, params };
    }
  }
  return { view: null, params: {} };
}

export function navigate(href, { replace = false } = {}) {
  const url = new URL(href, location.href);
  if (url.href === location.href && !replace) return show({ fresh: true });
  window.history.replaceState({ ...window.history.state, scroll: scrollY }, "");
  window.history[replace ? "replaceState" : "pushState"]({}, "", url);
  return show({ fresh: true });
}

function context(params) {
  const query = new URLSearchParams(location.search);
  return {
    params, query, navigate,
    filter: query.get("filter") ?? "",
    local: {},
    setFilter(text) {
      this.filter = text;
      const url = new URL(location.href);
      if (text) url.searchParams.set("filter", text);
      else url.searchParams.delete("filter");
      window.history.replaceState(window.history.state, "", url);
      draw();
    },
    redraw: () => draw(),
    reload: () => show(),
  };
}

async function show({ fresh = false, scroll = 0 } = {}) {
  loading?.abort();
  const mine = new AbortController();
  loading = mine;
  if (fresh || !current) {
    const { view, params } = locate();
    current = { view, context: context(params), data: null, error: null };
    drawNav();
    if (!view) current.error = new Failure("There is no such page. The links above lead to all there are.", 404);
  }
  const shown = current;
  let spinner = null;
  if (shown.view) {
    if (fresh) spinner = setTimeout(() => loading === mine && replaceChildren(main, loadingNote()), 250);
    try {
      shown.data = await shown.view.load(shown.context, mine.signal);
      shown.error = null;
    } catch (error) {
      if (error.name === "AbortError") return;
      shown.error = error;
    } finally {
      clearTimeout(spinner);
    }
  }
  if (shown !== current || loading !== mine) return;
  loading = null;
  draw();
  if (fresh) arrive(scroll);
  if (again) {
    again = false;
    refresh();
  }
}

function arrive(scroll) {
  window.scrollTo(0, scroll);
  announce(document.title);
  const wanted = main.querySelector("[autofocus]");
  if (wanted) wanted.focus({ preventScroll: true });
  else if (!scroll) main.focus({ preventScroll: true });
}

function draw() {
  const { view, context: where, data, error } = current;
  const title = view?.title?.(where) ?? "Not found";
  document.title = `${title} · PoolPilot`;
  replaceChildren(main, error ? [data && view.draw(data, where), problem(error)].filter(Boolean).reverse() : view.draw(data, where));
}

function loadingNote() {
  return h("p", { class: "empty", key: "loading" }, "Loading…");
}

function problem(error) {
  const lost = error instanceof Failure && error.status === 0;
  if (!(error instanceof Failure)) console.error(error);
  return h("section", { class: "card notice", "data-look": "ERROR", role: "alert", key: "failure" },
    h("h2", {}, error.status === 404 ? "Not here" : "This cannot be shown"),
    h("p", {}, error.message),
    h("p", { class: "dim" }, lost
      ? "This page tries again by itself. What is below, if anything, is from before."
      : h("a", { href: "/ui" }, "Back to the overview")));
}

// Staying up to date.

let due = null;
let cost = 0; // Milliseconds that the last load took.

function refresh() {
  if (!current?.view) return;
  if (loading) {
    again = true;
    return;
  }
  // However much changes, loading takes a fifth of the time at most.
  due ??= setTimeout(async () => {
    due = null;
    const began = performance.now();
    await show();
    cost = performance.now() - began;
  }, Math.max(50, 4 * cost));
}

setInterval(tickTimes, 1000);

// Links and rows.

document.addEventListener("click", (event) => {
  const anchor = event.target.closest("a[href]");
  if (anchor) {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || anchor.target) return;
    const url = new URL(anchor.href);
    if (url.origin !== location.origin || !/^\/ui(\/|$)/.test(url.pathname) || anchor.hash) return;
    event.preventDefault();
    navigate(anchor.href);
    return;
  }
  const row = event.target.closest("tbody tr");
  const target = row?.querySelector("a.row");
  if (target && !event.target.closest("button, input, summary") && !String(getSelection())) {
    navigate(target.href);
  }
});
window.addEventListener("popstate", (event) => show({ fresh: true, scroll: event.state?.scroll ?? 0 }));
window.history.scrollRestoration = "manual";

// Keys.

const keys = () => [
  [["/"], "Go to the filter or search box"],
  [["j", "↓"], "Next row"], [["k", "↑"], "Previous row"],
  [["Enter"], "Open the row"], [["Esc"], "Leave the box, or go up one level"],
  ...nav.map(([name, , key]) => [["g", key], `Go to ${name}`]),
  [["t"], "Light, dark, or as the system has it"], [["?"], "These keys"],
];
let pendingG = 0;

document.addEventListener("keydown", (event) => {
  if (event.metaKey || event.ctrlKey || event.altKey || event.isComposing) return;
  const typing = event.target.closest?.("input, textarea, select");
  if (help.open) return;
  if (event.key === "Escape") return escape(event, typing);
  if (typing) {
    if (event.key === "ArrowDown" && typing.type === "search") move(1, event);
    return;
  }
  if (pendingG && Date.now() - pendingG < 1500) {
    pendingG = 0;
    const page = nav.find(([, , key]) => key === event.key);
    if (page) {
      event.preventDefault();
      navigate(`/ui${page[1] ? `/${page[1]}` : ""}`);
      return;
    }
  }
  if (event.key === "g") pendingG = Date.now();
  else if (event.key === "/") focusBox(event);
  else if (event.key === "j" || event.key === "ArrowDown") move(1, event);
  else if (event.key === "k" || event.key === "ArrowUp") move(-1, event);
  else if (event.key === "t") nextTheme();
  else if (event.key === "?") openHelp();
});

function escape(event, typing) {
  event.preventDefault();
  if (typing) {
    if (typing.value && typing.id === "filter") {
      typing.value = "";
      typing.dispatchEvent(new Event("input", { bubbles: true }));
    } else typing.blur();
    return;
  }
  const parts = location.pathname.split("/").filter(Boolean);
  if (parts.length > 1) navigate(`/ui${parts.length > 2 ? `/${parts[1]}` : ""}`);
}

function focusBox(event) {
  const box = main.querySelector("#filter, input[type=search]");
  if (!box) return;
  event.preventDefault();
  box.focus();
  box.select();
}

function move(step, event) {
  const rows = [...main.querySelectorAll("a.row")].filter((row) => row.offsetParent);
  if (!rows.length) return;
  // Arrow keys scroll where there is something else to read.
  const at = rows.findIndex((row) => row === document.activeElement);
  if (at < 0 && event.key.startsWith("Arrow") && event.target.closest?.("pre, .json, .scroll")) return;
  event.preventDefault();
  const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step));
  rows[next].focus({ preventScroll: true });
  rows[next].closest("tr, .item")?.scrollIntoView({ block: "nearest" });
}

function openHelp() {
  help.replaceChildren(
    h("div", { class: "card-head" }, h("h2", { id: "help-title" }, "Keys"),
      h("button", { type: "button", class: "tool", "aria-label": "Close", autofocus: true, on: { click: () => help.close() } }, "×")),
    h("dl", { class: "keys" }, keys().map(([names, text]) =>
      h("div", {}, h("dt", {}, names.map((key) => h("kbd", {}, key))), h("dd", {}, text)))));
  help.showModal();
}

help.addEventListener("click", (event) => event.target === help && help.close());
document.getElementById("help-button").addEventListener("click", openHelp);

// Frame.

function drawNav() {
  const first = location.pathname.split("/").filter(Boolean)[1] ?? "";
  document.getElementById("nav").replaceChildren(...nav.map(([name, path, key]) =>
    h("a", {
      href: `/ui${path ? `/${path}` : ""}`, "aria-current": first === path ? "page" : null,
      "aria-keyshortcuts": `g ${key}`, title: `g ${key}`,
    }, name)));
  document.querySelector('#nav [aria-current="page"]')?.scrollIntoView({ block: "nearest", inline: "center" });
}

const THEMES = { system: "As the system", light: "Light", dark: "Dark" };
const THEME_ICONS = {
  system: "M2 2h12v9H9v2h2v1H5v-1h2v-2H2zm1.5 1.5v6h9v-6z",
  light: "M8 4.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7zM7.3 0h1.4v3H7.3zm0 13h1.4v3H7.3zM0 7.3h3v1.4H0zm13 0h3v1.4h-3zM2 3l1-1 2.1 2.1-1 1zm8.9 8.9 1-1L14 13l-1 1zM3 14l-1-1 2.1-2.1 1 1zm8.9-8.9-1-1L13 2l1 1z",
  dark: "M6 1a7 7 0 1 0 9 9A6 6 0 0 1 6 1z",
};

function nextTheme() {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(theme()) + 1) % names.length]);
}

function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

function setTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem("poolpilot-theme", name);
  } catch {
    // Nothing may be stored: then it holds for this page.
  }
  drawTheme();
}

function drawTheme() {
  const button = document.getElementById("theme");
  button.replaceChildren(icon(THEME_ICONS[theme()]));
  button.setAttribute("aria-label", `Theme: ${THEMES[theme()]}`);
  button.title = `Theme: ${THEMES[theme()]} (t)`;
}

document.getElementById("theme").addEventListener("click", nextTheme);
drawTheme();

export function start(pages) {
  ({ nav, routes } = pages);
  if (!location.pathname.startsWith("/ui")) window.history.replaceState({}, "", "/ui");
  show({ fresh: true });
  listen(
    (topics) => {
      if (current?.view?.topics && (!topics || topics.some((t) => current.view.topics.includes(t)))) refresh();
    },
    (state) => {
      const live = document.getElementById("live");
      live.dataset.state = state;
      live.textContent = state === "live" ? "Live" : "Reconnecting";
      live.title = state === "live" ? "This page changes as soon as something does" : "The server does not answer; what you see may be old";
    },
  );
}
