// Asking the server, and hearing from it.

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The JSON at `path`. Throws Failure with the server's own words. */
export async function get(path, signal) {
  let response;
  try {
    response = await fetch(path, { signal, headers: { accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Does it still run?", 0);
  }
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!response.ok) throw new Failure(body?.error ?? `Status ${response.status}`, response.status);
  return body;
}

/** A path of encoded parts; slashes inside a part are kept, as the server's paths have them. */
export function pathOf(...parts) {
  return parts.map((part) => part.split("/").map(encodeURIComponent).join("/")).join("/");
}

/** Call `changed(topics)` whenever something has; null: it may have been anything.
 *
 * Only while the page is seen: a browser has six connections to a server for all its tabs, and one
 * that listens in each of six hidden ones would leave none for the seventh. */
export function listen(changed, state) {
  let source = null;
  let retry = null;

  function open() {
    close();
    if (document.hidden) return;
    source = new EventSource("/debug/events");
    source.addEventListener("hello", () => {
      state("live");
      changed(null);
    });
    source.addEventListener("change", (event) => changed(JSON.parse(event.data).topics));
    source.addEventListener("error", () => {
      state("lost");
      // A browser gives up after an answer that is not a stream; the server may be back later.
      if (source?.readyState === EventSource.CLOSED) retry = setTimeout(open, 3000);
    });
  }

  function close() {
    clearTimeout(retry);
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", open);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());
  open();
}
