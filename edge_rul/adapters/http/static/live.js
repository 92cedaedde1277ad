// Puts the live part of the page in place whenever the daemon sends it. Without this the page is as it was loaded.
"use strict";

const live = document.getElementById("live");
const state = document.getElementById("state");
const pause = document.getElementById("pause");
let source = null;
let paused = false;
let said = "";

function say(text) {
  if (text !== said) state.textContent = said = text; // told once to who listens to the page
}

function put(html) {
  const selection = document.getSelection();
  if (selection && selection.type === "Range" && live.contains(selection.anchorNode)) return; // somebody is copying
  const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
  const open = live.querySelector("details[open]") !== null;
  live.innerHTML = html; // escaped by the server, as the page itself
  if (open) live.querySelector("details")?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function watch() {
  source = new EventSource(document.body.dataset.live);
  source.onopen = () => say("Live");
  source.onmessage = (event) => {
    if (!paused) put(event.data);
    document.documentElement.dataset.updates = Number(document.documentElement.dataset.updates || 0) + 1;
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      say("Not live: too many watch, or the asset is gone");
      setTimeout(watch, 10000);
    } else {
      say("Not live: no connection");
    }
  };
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  say(paused ? "Paused" : "Live");
});
addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (event) => event.persisted && watch());
watch();
