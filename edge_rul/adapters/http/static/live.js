// Puts the live part of the page in place whenever the daemon sends it. Without this the page is as it was loaded.
"use strict";

const live = document.getElementById("live");
const state = document.getElementById("state");
const pause = document.getElementById("pause");
let source = null;
let paused = false;
let said = "";
let pressed = false;
let waiting = null; // what came while a button of the mouse or a finger was down

function say(text) {
  if (text !== said) state.textContent = said = text; // told once to who listens to the page
  state.classList.toggle("lost", text.startsWith("Not live")); // what is shown grows old
}

function put(html) {
  if (pressed) {
    waiting = html; // what is being clicked must not be replaced under the pointer
    return;
  }
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

function release() {
  pressed = false;
  setTimeout(() => {
    if (waiting !== null) put(waiting);
    waiting = null;
  });
}

addEventListener("pointerdown", () => (pressed = true));
addEventListener("pointerup", release);
addEventListener("pointercancel", release);
pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  say(paused ? "Paused" : "Live");
});
addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (event) => event.persisted && watch());
watch();
