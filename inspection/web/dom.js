// Elements from descriptions, and changing a page into its next state without disturbing the reader.

const SVG = "http://www.w3.org/2000/svg";
const handlers = new WeakMap();

/** An element. Children that are null or false are left out; text is never read as markup.
 * `on` maps events to handlers, `key` is the identity among siblings, and an element whose `opaque`
 * did not change is left alone by `morph`. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      handlers.set(element, value);
      for (const event of Object.keys(value)) element.addEventListener(event, dispatch);
    } else if (name === "key") element.dataset.key = value;
    else if (name === "opaque") element.dataset.opaque = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

function dispatch(event) {
  handlers.get(event.currentTarget)?.[event.type]?.(event);
}

/** A drawing of 16 by 16 from path data; shapes tell states apart without colour. */
export function icon(path, className = "icon") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return svg;
}

/** Make `container` have these children, touching only what differs: focus, selection, scroll
 * positions and what the reader has opened stay. */
export function replaceChildren(container, next) {
  const focused = document.activeElement;
  const holder = document.createElement("div");
  append(holder, [next]);
  morphChildren(container, holder);
  if (focused && focused !== document.activeElement && focused.isConnected) {
    focused.focus({ preventScroll: true });
  }
}

function morph(from, to) {
  if (from.nodeType === Node.TEXT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  if (from.dataset?.opaque !== undefined && from.dataset.opaque === to.dataset?.opaque) return;
  morphAttributes(from, to);
  const next = handlers.get(to);
  if (next) {
    for (const event of Object.keys(next)) {
      if (!handlers.get(from)?.[event]) from.addEventListener(event, dispatch);
    }
    handlers.set(from, next);
  }
  if (from instanceof HTMLInputElement && from !== document.activeElement) {
    const value = to.getAttribute("value") ?? "";
    if (from.value !== value) from.value = value;
  }
  morphChildren(from, to);
  if (from instanceof HTMLSelectElement && from.value !== to.value) from.value = to.value;
}

function morphAttributes(from, to) {
  const kept = from instanceof HTMLDetailsElement ? ["open"] : [];
  for (const { name, value } of [...to.attributes]) {
    if (kept.includes(name) || from.getAttribute(name) === value) continue;
    // The content security policy forbids styles in attributes, not those that a script sets.
    if (name === "style") from.style.cssText = to.style.cssText;
    else from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!kept.includes(name) && !to.hasAttribute(name)) from.removeAttribute(name);
  }
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let at = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const key = wanted.dataset?.key;
    const found = key ? keyed.get(key) : matching(at, wanted) ? at : null;
    if (found && found.nodeName === wanted.nodeName && !replaced(found, wanted)) {
      if (found === at) at = at.nextSibling;
      else from.insertBefore(found, at);
      morph(found, wanted);
    } else from.insertBefore(wanted, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function replaced(found, wanted) {
  return found.dataset?.opaque !== wanted.dataset?.opaque;
}

function matching(at, wanted) {
  return at && at.nodeName === wanted.nodeName && !at.dataset?.key;
}
