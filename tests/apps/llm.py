"""The application of test_llm_clients.py: answers as OpenAI and Anthropic stream them."""

import time
from collections.abc import Iterator
from typing import Any

from vento_wsgi import Context, Event, Response, create_app, create_router

router = create_router()
WORDS = ("Streams ", "over ", "WSGI.")
SILENCE = 0.3  # seconds between two words, with heartbeats in between


def told(ctx: Context, events: Iterator[Event]) -> Response:
    """The events with silence and heartbeats between them; the last one fails if that is asked."""
    model = ctx.request.json()["model"]

    def paced() -> Iterator[Event]:
        for number, event in enumerate(events):
            if number == 2 and model == "fails":
                raise RuntimeError("the model is gone")
            yield event
            time.sleep(SILENCE)

    return ctx.sse(paced(), heartbeat=0.1)


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.text("")


@router.post("/openai/chat/completions")
def openai(ctx: Context) -> Response:
    def chunk(delta: dict[str, str], reason: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        kind = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return Event({**kind, "choices": [choice]})

    def events() -> Iterator[Event]:
        for word in WORDS:
            yield chunk({"content": word})
        yield chunk({}, "stop")
        yield Event("[DONE]")

    return told(ctx, events())


@router.post("/anthropic/v1/messages")
def anthropic(ctx: Context) -> Response:
    def event(kind: str, **fields: Any) -> Event:
        return Event({"type": kind, **fields}, event=kind)

    def events() -> Iterator[Event]:
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "1", "type": "message", "role": "assistant", "content": [], "model": "m"}
        ends = {"stop_reason": None, "stop_sequence": None}
        yield event("message_start", message={**message, **ends, "usage": usage})
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for word in WORDS:
            delta = {"type": "text_delta", "text": word}
            yield event("content_block_delta", index=0, delta=delta)
        yield event("content_block_stop", index=0)
        ends["stop_reason"] = "end_turn"  # type: ignore[assignment]
        yield event("message_delta", delta=ends, usage=usage)
        yield event("message_stop")

    return told(ctx, events())


app = create_app()
app.use(router)
