/* An incremental parser of text/event-stream (HTML standard, section 9.2.6).
   Feed it text in pieces, cut anywhere; it calls `dispatch({ type, data, id })` for each event. */
export class EventStreamParser {
  #dispatch;
  #line = "";
  #afterCarriageReturn = false;
  #data = "";
  #type = "";
  #id = "";

  constructor(dispatch) {
    this.#dispatch = dispatch;
  }

  feed(text) {
    // A CR ends its line at once. If the LF of a CRLF comes in the next piece, it is skipped.
    if (this.#afterCarriageReturn && text.startsWith("\n")) text = text.slice(1);
    else if (text === "") return;
    this.#afterCarriageReturn = text.endsWith("\r");

    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    for (const line of lines) this.#read(line);
  }

  #read(line) {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);

    if (field === "data") this.#data += value + "\n";
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }

  #end() {
    const data = this.#data;
    const type = this.#type || "message";
    this.#data = "";
    this.#type = "";
    if (data !== "") this.#dispatch({ type, data: data.slice(0, -1), id: this.#id });
  }
}

/* Yields the events of a fetch response as they arrive. */
export async function* readEvents(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const events = [];
  const parser = new EventStreamParser((event) => events.push(event));
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parser.feed(decoder.decode(value, { stream: true }));
      yield* events.splice(0);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
