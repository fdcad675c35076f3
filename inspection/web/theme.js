// Runs before the first paint, so that nobody who chose dark sees a white flash.
"use strict";
{
  const stored = (() => {
    try {
      return localStorage.getItem("poolpilot-theme");
    } catch {
      return null;
    }
  })();
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
}
