"""The demo: one page that shows three streams.

From the root of the repository:

    vento-wsgi run examples.demo.app:app

Run it with one worker, because the counters of /stats are those of one process.
"""

import hashlib
import inspect
import itertools
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from werkzeug.exceptions import BadRequest, NotFound

from vento_wsgi import Context, Event, Response, create_app, create_router

HERE = Path(__file__).parent
MIB = 1024 * 1024
BLOCKS_PER_MIB = 4
LARGEST_DOWNLOAD_MIB = 256

router = create_router()
running = Counter(events=0, chat=0, download=0)
stopped = Counter(events=0, chat=0, download=0)


@contextmanager
def counted(stream: str) -> Iterator[None]:
    """Count a generator in `running` while it runs, and in `stopped` if it is closed early."""
    finished = False
    running[stream] += 1
    try:
        yield
        finished = True
    finally:
        running[stream] -= 1
        stopped[stream] += not finished


@router.get("/events")
def events(ctx: Context) -> Response:
    """Endless events, with pauses that follow a sine wave.

    The page draws the wave from the times of arrival: it
    has the right shape only if nothing delays an event.
    """
    first = number_after(ctx.last_event_id)

    def ticks() -> Iterator[Event]:
        with counted("events"):
            for count in itertools.count(first):
                now = {"count": count, "time": time.time()}
                yield Event(now, id=str(count))
                time.sleep(0.75 + 0.35 * math.sin(count / 2))

    return ctx.sse(ticks())


@router.post("/ai/chat")
def chat(ctx: Context) -> Response:
    """The words of an answer, then [DONE]."""
    body = ctx.request.json()
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        raise BadRequest('The body must be {"message": "a text"}.')
    message = body["message"]

    def words() -> Iterator[Event]:
        with counted("chat"):
            for word in re.findall(r"\S+\s*", answer(message)):
                yield Event({"text": word})
                time.sleep(0.25 if word.rstrip().endswith((".", "?", ":")) else 0.06)
            yield Event("[DONE]")

    return Response(
        words(),
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "Connection": "keep-alive",
        },
    )


@router.get("/download")
def download(ctx: Context) -> Response:
    """A body of known length, slow enough to be cancelled."""
    mebibytes = asked_size(ctx)

    def paced() -> Iterator[bytes]:
        with counted("download"):
            for block in blocks(mebibytes):
                yield block
                time.sleep(0.02)

    return ctx.stream(
        paced(),
        headers={
            "Content-Length": str(mebibytes * MIB),
            "Content-Disposition": 'attachment; filename="vento.bin"',
        },
    )


@router.get("/download/sha256")
def download_sha256(ctx: Context) -> Response:
    mebibytes = asked_size(ctx)
    return ctx.json({"sha256": sha256(mebibytes), "size": mebibytes * MIB})


@router.get("/stats")
def stats(ctx: Context) -> Response:
    """How many generators run in this process, and how many were closed early."""
    return ctx.json({"pid": os.getpid(), "running": running, "stopped": stopped})


@router.get("/source/<name>")
def source(ctx: Context) -> Response:
    """The source code of a stream's handler, which the page shows."""
    handlers = {"events": events, "chat": chat, "download": download}
    try:
        return ctx.text(inspect.getsource(handlers[ctx.params["name"]]))
    except KeyError:
        raise NotFound from None


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.file("index.html", root=HERE)


@router.get("/assets/<name>")
def asset(ctx: Context) -> Response:
    return ctx.file(ctx.params["name"], root=HERE / "assets")


def number_after(last_event_id: str | None) -> int:
    """The number of the next event for a browser that reconnects with its last event id."""
    seen = last_event_id or ""
    return int(seen) + 1 if re.fullmatch("[0-9]{1,15}", seen) else 1


def asked_size(ctx: Context) -> int:
    """The size in ?mib=, in MiB."""
    asked = ctx.query.get("mib", "64")
    if not re.fullmatch("[0-9]{1,4}", asked) or not 1 <= int(asked) <= LARGEST_DOWNLOAD_MIB:
        raise BadRequest(f"mib must be a whole number from 1 to {LARGEST_DOWNLOAD_MIB}.")
    return int(asked)


def blocks(mebibytes: int) -> Iterator[bytes]:
    """Pseudo-random bytes, the same every time."""
    for index in range(mebibytes * BLOCKS_PER_MIB):
        yield hashlib.shake_128(index.to_bytes(4, "big")).digest(MIB // BLOCKS_PER_MIB)


@cache
def sha256(mebibytes: int) -> str:
    digest = hashlib.sha256()
    for block in blocks(mebibytes):
        digest.update(block)
        time.sleep(0)  # under gevent, lets other greenlets run
    return digest.hexdigest()


# The answers of the chat, and the words in a message that select one.
ABOUT_WIND = (
    "Vento is Italian for wind, ánemos in Greek: ἄνεμος. The old harbours of the "
    "Mediterranean had a name for each of its directions: Tramontana from the north, "
    "Levante at sunrise, Scirocco warm and full of sand, Maestrale clearing the sky behind "
    "it. A wind is a fine picture of a stream: nobody waits until all of it has been "
    "collected before feeling the first breath."
)
ABOUT_CANCEL = (
    "Press Stop while these words arrive. The browser closes the connection, the server "
    "closes the generator that was making them, and its finally block runs. The counter at "
    "the top of this page falls back to zero: no thread stays behind to write a long answer "
    "to a reader who has already left. Still here? Then you let me finish, and that works "
    "just as well."
)
ABOUT_WSGI = (
    "A WSGI application returns an iterable, and that has always been enough to stream. "
    "You write a generator. Each yield becomes a chunk, each chunk goes to the socket the "
    "moment it exists, and while the generator sleeps gevent lets a thousand others run. "
    "No async, no await, no second copy of your libraries: the code that you already have, "
    "answering a little at a time."
)
ABOUT_ITSELF = (
    "I am no model, only a generator with a handful of answers and the patience to say "
    "them one word at a time. Each word is a server-sent event, read by fetch, cut into "
    "frames by some sixty lines of JavaScript and put on the page before the next one is "
    "spoken. Put a real model behind the same route and nothing on this page has to change. "
    "Ask me about the wind, about WSGI, or how cancelling works."
)

ANSWERS = (
    (("wind", "vento", "story", "name", "italian"), ABOUT_WIND),
    (("cancel", "stop", "abort", "leave", "disconnect"), ABOUT_CANCEL),
    (("wsgi", "stream", "gevent", "async", "thread", "generator"), ABOUT_WSGI),
)


def answer(message: str) -> str:
    lowered = message.lower()
    for words, text in ANSWERS:
        if any(word in lowered for word in words):
            return text
    return ABOUT_ITSELF


app = create_app()
app.use(router)

if __name__ == "__main__":
    app.run()
