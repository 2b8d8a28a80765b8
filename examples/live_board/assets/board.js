/* Loads the board, and applies each change that the server publishes.

   Every card goes through `put`: from the first load, an event, or the response to a request of this
   page. It ignores a revision that is older than the shown one. */

const names = { ideas: "Ideas", doing: "Doing", done: "Done" };
const order = Object.keys(names);
const cards = new Map();
let after = null; // the id of the last event that this page has
let source = null;
let received = 0;

const element = (id) => document.getElementById(id);
const column = (name) => document.querySelector(`.column[data-column="${name}"]`);

// From the server

async function load() {
  try {
    const board = await ask("GET", "/cards");
    for (const card of board.cards) put(card);
    const there = new Set(board.cards.map((card) => card.id));
    for (const card of [...cards.values()]) {
      if (!there.has(card.id) && card.revision <= board.revision) remove(card.id);
    }
    after ??= board.after;
    document.body.dataset.loaded = board.revision;
    if (!source) listen();
    else if (source.readyState === EventSource.OPEN) show("live");
  } catch {
    show("reconnecting");
    setTimeout(load, 1000);
  }
}

function listen() {
  source = new EventSource(`/changes?lastEventId=${encodeURIComponent(after)}`);
  source.onopen = () => show("live");
  source.onerror = () => {
    show("reconnecting");
    // EventSource reconnects by itself, except after an error response, such as one of a proxy
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  };
  source.onmessage = (event) => {
    after = event.lastEventId;
    element("received").textContent = ++received;
    apply(JSON.parse(event.data));
  };
  source.addEventListener("gap", (event) => {
    after = event.lastEventId;
    load(); // the broker no longer has some of the changes
  });
}

function show(state) {
  element("state").textContent = element("state").dataset.state = state;
}

function said({ id, text, column }) {
  if (!column) return `“${text}” was taken off`;
  return `“${text}” ${cards.has(id) ? "moved to" : "is new in"} ${names[column]}`;
}

// The cards

function apply(card) {
  const what = said(card);
  if (put(card)) element("latest").textContent = what;
}

function put(card) {
  const old = cards.get(card.id);
  if (old && old.revision >= card.revision) return false;
  old?.element?.remove();
  if (card.column) {
    card.element = draw(card);
    const list = column(card.column).querySelector(".cards");
    const below = [...list.children].find((other) => Number(other.dataset.revision) < card.revision);
    list.insertBefore(card.element, below ?? null);
  }
  cards.set(card.id, card);
  count();
  return true;
}

function remove(id) {
  cards.get(id).element?.remove();
  cards.delete(id);
  count();
}

function draw(card) {
  const item = element("card").content.firstElementChild.cloneNode(true);
  const place = order.indexOf(card.column);
  item.dataset.id = card.id;
  item.dataset.revision = card.revision;
  item.dataset.tone = card.id % 5;
  item.querySelector(".text").textContent = card.text;
  for (const [name, target] of [["back", order[place - 1]], ["on", order[place + 1]], ["off", null]]) {
    const button = item.querySelector(`.${name}`);
    const label = target === null ? "Take off the board" : `Move to ${names[target]}`;
    button.hidden = target === undefined;
    button.title = label;
    button.setAttribute("aria-label", `${label}: ${card.text}`);
    button.onclick = () => change(card.id, target);
  }
  item.ondragstart = (event) => {
    event.dataTransfer.setData("text/plain", card.id);
    event.dataTransfer.effectAllowed = "move";
  };
  return item;
}

function count() {
  for (const name of order) {
    const section = column(name);
    section.querySelector(".count").textContent = section.querySelectorAll(".card").length;
  }
}

// Changes made in this tab

function change(id, target) {
  return target === null ? tell("DELETE", `/cards/${id}`) : tell("PUT", `/cards/${id}`, { column: target });
}

async function tell(method, url, fields) {
  try {
    apply(await ask(method, url, fields));
    element("notice").hidden = true;
    return true;
  } catch (error) {
    element("notice").textContent = `This was not done: ${error.message}`;
    element("notice").hidden = false;
    return false;
  }
}

async function ask(method, url, fields) {
  const body = fields && JSON.stringify(fields);
  const response = await fetch(url, { method, body, headers: body ? { "Content-Type": "application/json" } : {} });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail ?? response.statusText);
  return answer;
}

for (const section of document.querySelectorAll(".column")) {
  const target = section.dataset.column;
  section.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const input = event.target.elements.text;
    if (await tell("POST", "/cards", { text: input.value, column: target })) input.value = "";
  };
  section.ondragover = (event) => {
    event.preventDefault();
    section.classList.add("target");
  };
  section.ondragleave = () => section.classList.remove("target");
  section.ondrop = (event) => {
    event.preventDefault();
    section.classList.remove("target");
    const id = Number(event.dataTransfer.getData("text/plain"));
    if (cards.get(id)?.column !== target) change(id, target);
  };
}

load();
