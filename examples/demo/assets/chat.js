/* The chat: a POST by fetch, whose response is read token by token. */
import { readEvents } from "./event-stream.js";
import { lookCloser } from "./server.js";

const log = document.getElementById("chat-log");
const form = document.getElementById("chat-form");
const input = document.getElementById("chat-input");
const send = document.getElementById("chat-send");
const stop = document.getElementById("chat-stop");
const state = document.getElementById("chat-state");
const suggestions = document.getElementById("chat-suggestions");

let abort = null;

function show(name) {
  state.textContent = name;
  state.dataset.state = name;
  const busy = name === "answering";
  const focused = document.activeElement;
  send.hidden = busy;
  stop.hidden = !busy;
  if (focused === send) stop.focus();
  if (focused === stop) input.focus();
}

function bubble(who, text) {
  const element = document.createElement("p");
  element.className = `bubble ${who}`;
  element.textContent = text;
  log.append(element);
  log.scrollTop = log.scrollHeight;
  return element;
}

function append(element, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  element.append(text);
  element.dataset.tokens = Number(element.dataset.tokens) + 1;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function finish(element, name, note) {
  element.dataset.state = name;
  element.removeAttribute("aria-busy");
  if (note) {
    const remark = document.createElement("small");
    remark.textContent = note;
    element.append(remark);
    log.scrollTop = log.scrollHeight;
  }
  show(name);
}

async function whyRefused(response) {
  const problem = await response.json().catch(() => ({}));
  return problem.detail || problem.title || `${response.status} ${response.statusText}`;
}

async function ask(message) {
  suggestions.hidden = true;
  bubble("mine", message);
  const answer = bubble("theirs", "");
  answer.dataset.state = "answering";
  answer.dataset.tokens = 0;
  answer.setAttribute("aria-busy", "true");
  abort = new AbortController();
  show("answering");
  lookCloser();

  try {
    const response = await fetch("/ai/chat", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify({ message }),
      signal: abort.signal,
    });
    if (!response.ok) return finish(answer, "failed", await whyRefused(response));

    let done = false;
    for await (const { type, data } of readEvents(response)) {
      if (type === "error") throw new Error(data);
      if (data === "[DONE]") done = true;
      else if (!done) append(answer, JSON.parse(data).text);
    }
    if (done) finish(answer, "done");
    else finish(answer, "failed", "The answer ended before it was complete.");
  } catch (error) {
    if (error.name === "AbortError") finish(answer, "stopped", "You stopped this answer.");
    else finish(answer, "failed", "The connection broke off before the answer was complete.");
  } finally {
    abort = null;
    lookCloser();
  }
}

export function startChat() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const message = input.value.trim();
    if (abort || !message) return;
    input.value = "";
    ask(message);
  });
  stop.addEventListener("click", () => abort?.abort());
  suggestions.addEventListener("click", ({ target }) => {
    if (target.matches("button") && !abort) {
      input.focus();
      ask(target.textContent);
    }
  });
}
