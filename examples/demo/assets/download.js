/* The download: reads a fetch response into a buffer, shows its rate, then its SHA-256. */
import { lookCloser } from "./server.js";

const MIB = 1024 * 1024;
const RATE_SPAN = 1500;
const REDRAW_PAUSE = 40;

const size = document.getElementById("download-size");
const start = document.getElementById("download-start");
const cancel = document.getElementById("download-cancel");
const state = document.getElementById("download-state");
const progress = document.getElementById("download-progress");
const bytes = document.getElementById("download-bytes");
const percent = document.getElementById("download-percent");
const rate = document.getElementById("download-rate");
const left = document.getElementById("download-left");
const digest = document.getElementById("download-sha256");
const expected = document.getElementById("download-expected");
const verdict = document.getElementById("download-verdict");

let abort = null;

function show(name) {
  const busy = name === "receiving";
  const focused = document.activeElement;
  state.textContent = name;
  state.dataset.state = name;
  progress.dataset.state = name;
  cancel.disabled = !busy;
  start.disabled = size.disabled = busy || name === "checking";
  if (busy && focused === start) cancel.focus();
  if (!start.disabled && (focused === cancel || focused === document.body)) start.focus();
}

function clear() {
  progress.value = 0;
  for (const element of [bytes, percent, rate, left, digest, expected]) element.textContent = "–";
  verdict.textContent = "";
  delete verdict.dataset.match;
}

/* Shows the progress, with the rate of the last moments instead of the mean. */
class Meter {
  #total;
  #drawn = 0;
  #marks = [];

  constructor(total) {
    this.#total = total;
    progress.max = total;
  }

  draw(received, last = false) {
    const now = performance.now();
    if (!last && now - this.#drawn < REDRAW_PAUSE) return;
    this.#drawn = now;
    this.#marks.push([now, received]);
    while (this.#marks.length > 2 && now - this.#marks[1][0] > RATE_SPAN) this.#marks.shift();

    progress.value = received;
    bytes.textContent = `${(received / MIB).toFixed(1)} of ${this.#total / MIB} MiB`;
    percent.textContent = `${Math.floor((100 * received) / this.#total)} %`;
    const [then, before] = this.#marks[0];
    if (now > then) {
      const perSecond = ((received - before) * 1000) / (now - then);
      rate.textContent = `${(perSecond / MIB).toFixed(1)} MiB/s`;
      left.textContent = perSecond ? `${((this.#total - received) / perSecond).toFixed(1)} s` : "–";
    }
  }
}

const hex = (buffer) =>
  Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function receive(query, signal) {
  const response = await fetch(`/download?${query}`, { signal });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("Content-Length"));
  const body = new Uint8Array(total);
  const meter = new Meter(total);
  const reader = response.body.getReader();
  let received = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    body.set(value, received);
    received += value.length;
    meter.draw(received);
  }
  meter.draw(received, true);
  if (received !== total) throw new Error(`${received} bytes came of ${total}`);
  return body;
}

async function download() {
  const query = new URLSearchParams({ mib: size.value });
  abort = new AbortController();
  clear();
  show("receiving");
  lookCloser();
  try {
    const body = await receive(query, abort.signal);
    show("checking");
    lookCloser();
    const reply = await fetch(`/download/sha256?${query}`);
    const { sha256 } = await reply.json();
    expected.textContent = sha256;
    digest.textContent = hex(await crypto.subtle.digest("SHA-256", body));
    const match = digest.textContent === sha256;
    verdict.textContent = match ? "✓ Every byte arrived as it was sent" : "✗ The digests differ";
    verdict.dataset.match = match;
    show(match ? "complete" : "failed");
  } catch (error) {
    rate.textContent = left.textContent = "–";
    const cancelled = error.name === "AbortError";
    verdict.textContent = cancelled ? "You cancelled it: its generator leaves the strip at the top" : `It broke off: ${error.message}`;
    show(cancelled ? "cancelled" : "failed");
  } finally {
    abort = null;
    lookCloser();
  }
}

export function startDownload() {
  start.addEventListener("click", download);
  cancel.addEventListener("click", () => abort?.abort());
}
