/* The strip at the top: how many generators run on the server. */

const IDLE_PAUSE = 2000;
const BUSY_PAUSE = 200;
const BUSY_SPAN = 4000;

let busyUntil = 0;
let timer = 0;

const put = (id, value) => {
  const element = document.getElementById(id);
  if (element.textContent === String(value)) return;
  element.textContent = value;
  element.parentElement.dataset.running = value;
};

async function refresh() {
  try {
    const response = await fetch("/stats", { cache: "no-store" });
    const { pid, running, stopped } = await response.json();
    for (const [name, count] of Object.entries(running)) put(`stats-${name}`, count);
    put("stats-stopped", Object.values(stopped).reduce((sum, count) => sum + count, 0));
    put("stats-pid", pid);
  } catch {
    for (const name of ["events", "chat", "download", "stopped", "pid"]) put(`stats-${name}`, "–");
  }
}

async function poll() {
  clearTimeout(timer);
  if (!document.hidden) await refresh();
  clearTimeout(timer);
  timer = setTimeout(poll, performance.now() < busyUntil ? BUSY_PAUSE : IDLE_PAUSE);
}

/* Polls more often for a while, because a stream has just started or stopped. */
export function lookCloser() {
  busyUntil = performance.now() + BUSY_SPAN;
  clearTimeout(timer);
  timer = setTimeout(poll, 50);
}

export function startServer() {
  document.addEventListener("visibilitychange", lookCloser);
  lookCloser();
}
