/* The live feed: an EventSource, a list with the newest event on top, and a curve of the pauses. */
import { lookCloser } from "./server.js";

const SHOWN = 8;
const WAVE_POINTS = 36;
const WAVE_WIDTH = 320;
const WAVE_HEIGHT = 72;

const list = document.getElementById("events-list");
const state = document.getElementById("events-state");
const toggle = document.getElementById("events-toggle");
const gap = document.getElementById("events-gap");
const line = document.getElementById("events-wave-line");
const area = document.getElementById("events-wave-area");

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hour12: false,
});

let source = null;
let lastArrival = null;
const gaps = [];

function show(name) {
  state.textContent = name;
  state.dataset.state = name;
  toggle.textContent = name === "closed" ? "Connect" : "Close";
}

function open() {
  show("connecting");
  lastArrival = null;
  source = new EventSource("/events");
  source.onopen = () => show("open");
  source.onerror = () => {
    lastArrival = null;
    show(source.readyState === EventSource.CLOSED ? "closed" : "reconnecting");
    lookCloser();
  };
  source.onmessage = (event) => receive(JSON.parse(event.data));
  lookCloser();
}

function close() {
  source.close();
  show("closed");
  lookCloser();
}

function receive({ count, time }) {
  const arrival = performance.now();
  const seconds = lastArrival === null ? null : (arrival - lastArrival) / 1000;
  lastArrival = arrival;

  const item = document.createElement("li");
  item.dataset.count = count;
  item.dataset.time = time;
  item.dataset.arrival = arrival;
  for (const [name, text] of [
    ["count", `#${count}`],
    ["time", clock.format(time * 1000)],
    ["gap", seconds === null ? "first" : `+${seconds.toFixed(3)} s`],
  ]) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    item.append(part);
  }
  list.prepend(item);
  while (list.children.length > SHOWN) list.lastElementChild.remove();

  if (seconds !== null) {
    gaps.push(seconds);
    if (gaps.length > WAVE_POINTS) gaps.shift();
    gap.textContent = `${seconds.toFixed(3)} s`;
    draw();
  }
}

function draw() {
  const top = Math.max(1.4, ...gaps);
  const step = WAVE_WIDTH / (WAVE_POINTS - 1);
  const left = WAVE_WIDTH - (gaps.length - 1) * step;
  const points = gaps.map((value, index) => [
    left + index * step,
    WAVE_HEIGHT - 3 - (value / top) * (WAVE_HEIGHT - 10),
  ]);
  // Each segment is a cubic whose control points are halfway and level with its ends, so the curve
  // never rises above a measured point.
  let path = `M${points[0]}`;
  for (let i = 1; i < points.length; i++) {
    const middle = (points[i - 1][0] + points[i][0]) / 2;
    path += `C${middle},${points[i - 1][1]} ${middle},${points[i][1]} ${points[i]}`;
  }
  line.setAttribute("d", path);
  area.setAttribute("d", `${path}L${WAVE_WIDTH},${WAVE_HEIGHT}L${left},${WAVE_HEIGHT}Z`);
}

export function startEvents() {
  toggle.addEventListener("click", () => (source.readyState === EventSource.CLOSED ? open() : close()));
  open();
}
