"""The application of integration/engine and test_drain.py: streams that record how they ended.

All requests are served by one worker. A stream called `name` records how much it made, what ended
it and at which line, and what `on_end` received; `GET /notes/<name>` returns that. Its options are
in the query. A source waits at a gate, as in apps/matrix.py, or for ever.
"""

import contextvars
import gc
import itertools
import linecache
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from types import GeneratorType, TracebackType
from typing import Any

from apps import matrix

from vento_wsgi import Context, Response, create_app, create_router
from vento_wsgi.streaming.disconnect import DisconnectWatcher
from vento_wsgi.streaming.greenlet_pump import GreenletPump
from vento_wsgi.streaming.pumps import cooperative
from vento_wsgi.streaming.record import Ending
from vento_wsgi.streaming.stream import Stream
from vento_wsgi.streaming.ticker import process_ticker

to_the_log = logging.StreamHandler()
to_the_log.setFormatter(logging.Formatter("%(created)f %(name)s: %(message)s"))
logging.getLogger("vento_wsgi.access").addHandler(to_the_log)
logging.getLogger("vento_wsgi.access").setLevel(logging.INFO)

FOREVER = 1000.0  # seconds: no test waits so long
TOO_MUCH = 1024 * 1024 * 1024  # bytes: where a source ends that nobody has held up
FIRST = b"data: first\n\n"
PAUSE = 0.001  # seconds: enough to have a source wait where its gate has opened meanwhile

router = create_router()


@dataclass
class Note:
    made: int = 0
    left: list[str] = field(default_factory=list)
    endings: list[dict[str, Any]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    stopped: bool = False


notes: defaultdict[str, Note] = defaultdict(Note)


class Leaving:
    """Records the exception that leaves the block, and the line that raised it."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        how = "the end"
        if kind is not None and traceback is not None:
            how = f"{kind.__name__}: {linecache.getline(__file__, traceback.tb_lineno).strip()}"
        self._note.left.append(how)


def respond(ctx: Context, chunks: Iterator[str | bytes]) -> Response:
    """A stream with the content type and the options of the query."""
    query, note = ctx.query, notes[ctx.query.get("name", "")]
    options: dict[str, Any] = {
        name: float(query[name])
        for name in ("heartbeat", "deadline", "send_timeout")
        if name in query
    }
    if "beat" in query:
        options["heartbeat"] = query["beat"].encode(), options["heartbeat"]
    if "flush" in query:
        options["flush"] = query["flush"]

    def on_end(ending: Ending) -> None:
        note.endings.append(asdict(ending))
        if "fails" in query:
            raise RuntimeError(f"on_end of {query['name']}")

    headers = {"Content-Length": query["length"]} if "length" in query else None
    kind = query.get("type", "text/plain")
    return ctx.stream(chunks, kind, headers=headers, on_end=on_end, **options)


def steps(ctx: Context) -> Iterator[int]:
    """The numbers of the steps that the gate lets pass, each after a true pause."""
    for step in matrix.steps(ctx):
        time.sleep(PAUSE)
        yield step


# Streams of chunks.


@router.get("/ready")
def ready(ctx: Context) -> Response:
    """Chunks that are ready together."""
    return respond(ctx, (f"chunk {n}\n" for n in range(int(ctx.query["count"]))))


@router.get("/paced")
def paced(ctx: Context) -> Response:
    """Past each gate some chunks that are ready together."""

    def chunks() -> Iterator[str]:
        for step in steps(ctx):
            for number in range(int(ctx.query.get("count", "1"))):
                yield f"data: {step}.{number}\n\n"

    return respond(ctx, chunks())


@router.get("/halting")
def halting(ctx: Context) -> Response:
    """Past each gate a chunk, and then the whole process waits: no loop has its turn."""
    from gevent.monkey import get_original

    def chunks() -> Iterator[str]:
        halt: socket.socket = get_original("socket", "socket")()
        with halt:
            for step in steps(ctx):
                yield f"chunk {step}\n"
                if step == 1:
                    halt.connect(("127.0.0.1", int(ctx.query["halt"])))
                halt.recv(1)

    return respond(ctx, chunks())


@router.get("/halves")
def halves(ctx: Context) -> Response:
    """Half of an event past the first gate, the other half past the second."""

    def chunks() -> Iterator[bytes]:
        waiting = steps(ctx)
        for piece in (b"data: one", b"\n\n"):
            next(waiting)
            yield piece
        next(waiting, None)

    return respond(ctx, chunks())


@router.get("/endless")
def endless(ctx: Context) -> Response:
    """Numbered blocks without a wait and without end, or until the stream is told to stop."""
    note, size = notes[ctx.query["name"]], int(ctx.query["size"])
    most = int(ctx.query.get("most", TOO_MUCH))

    def blocks() -> Iterator[bytes]:
        with Leaving(note):
            number = 0
            while not note.stopped and note.made < most:
                note.made += size
                yield number.to_bytes(8, "big") * (size // 8)
                number += 1

    return respond(ctx, blocks())


@router.get("/large")
def large(ctx: Context) -> Response:
    """One chunk of the size that is asked for, and no more."""

    def chunk() -> Iterator[bytes]:
        with Leaving(notes[ctx.query["name"]]):
            yield bytes(int(ctx.query["size"]))

    return respond(ctx, chunk())


@router.get("/brief")
def brief(ctx: Context) -> Response:
    """Two chunks, and a wait between them."""

    def chunks() -> Iterator[bytes]:
        yield FIRST
        time.sleep(PAUSE)
        yield FIRST

    return respond(ctx, chunks())


@router.get("/fail")
def fail(ctx: Context) -> Response:
    def chunks() -> Iterator[bytes]:
        yield FIRST
        raise RuntimeError(f"told to fail: {ctx.query['name']}")

    return respond(ctx, chunks())


@router.get("/timeout")
def timeout(ctx: Context) -> Response:
    import gevent

    def chunks() -> Iterator[bytes]:
        yield FIRST
        with gevent.Timeout(0.01):
            time.sleep(FOREVER)

    return respond(ctx, chunks())


@router.get("/until-drained")
def until_drained(ctx: Context) -> Response:
    """Continues until the worker stops, like a handler that polls."""

    def chunks() -> Iterator[str]:
        while not ctx.draining:
            yield f"{ctx.draining}\n"
            time.sleep(0.02)
        yield f"{ctx.draining}\n"

    return respond(ctx, chunks())


@router.get("/late")
def late(ctx: Context) -> Response:
    """The handler waits at the gate; its stream waits for good."""
    next(steps(ctx), None)
    return respond(ctx, sleeping(notes[ctx.query["name"]]))


@router.get("/file")
def file(ctx: Context) -> Response:
    return ctx.file(os.environ["FILE"], "application/octet-stream")


# Streams that wait for good, each in another way.


def sleeping(note: Note) -> Iterator[bytes]:
    with Leaving(note):
        yield FIRST
        time.sleep(FOREVER)


def receiving(note: Note) -> Iterator[bytes]:
    ours, theirs = socket.socketpair()
    with ours, theirs, Leaving(note):
        yield FIRST
        ours.recv(1)


def getting(note: Note) -> Iterator[bytes]:
    items: queue.Queue[bytes] = queue.Queue()
    with Leaving(note):
        yield FIRST
        yield items.get()


def locking(note: Note) -> Iterator[bytes]:
    lock = threading.Lock()
    with lock, Leaving(note):
        yield FIRST
        lock.acquire()


def waiting(note: Note) -> Iterator[bytes]:
    event = threading.Event()
    with Leaving(note):
        yield FIRST
        event.wait()


WAITS: dict[str, tuple[Callable[[Note], Iterator[bytes]], str]] = {
    "sleep": (sleeping, "time.sleep(FOREVER)"),
    "recv": (receiving, "ours.recv(1)"),
    "queue": (getting, "yield items.get()"),
    "lock": (locking, "lock.acquire()"),
    "event": (waiting, "event.wait()"),
}
"""How a source waits, and the line at which it then is."""


@router.get("/waits/<how>")
def waits(ctx: Context) -> Response:
    source, _ = WAITS[ctx.params["how"]]
    return respond(ctx, source(notes[ctx.query["name"]]))


# In which thread and context a source runs.

place = contextvars.ContextVar("place", default="nowhere")


@router.get("/context")
def context(ctx: Context) -> Response:
    """Enters a context of its own, as tracing libraries do, and leaves it in its finally block.

    Without a gate it goes on for ever, and never waits.
    """
    note = notes[ctx.query["name"]]
    place.set("the handler")

    def chunks() -> Iterator[str]:
        before, token = place.get(), place.set("the source")
        try:
            for _ in steps(ctx) if "gate" in ctx.query else itertools.repeat(None):
                yield f"{before}, {place.get()}\n"
        finally:
            place.reset(token)
            note.left.append(place.get())

    return respond(ctx, chunks())


@router.get("/threads")
def threads(ctx: Context) -> Response:
    """Notes the threads of the handler, of the source and of its finally block."""
    note = notes[ctx.query["name"]]
    note.threads.add(threading.get_ident())

    def chunks() -> Iterator[str]:
        try:
            for step in steps(ctx):
                note.threads.add(threading.get_ident())
                yield f"chunk {step}\n"
        finally:
            note.threads.add(threading.get_ident())

    return respond(ctx, chunks())


# What tests ask.


@router.get("/hello")
def hello(ctx: Context) -> Response:
    return ctx.text("hello")


@router.get("/pid")
def pid(ctx: Context) -> Response:
    return ctx.json(os.getpid())


@router.get("/notes/<name>")
def told(ctx: Context) -> Response:
    note = notes[ctx.params["name"]]
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return ctx.json({**asdict(note), "threads": len(note.threads), "resident": resident})


@router.get("/stop/<name>")
def stop(ctx: Context) -> Response:
    notes[ctx.params["name"]].stopped = True
    return ctx.text("stopped")


@router.get("/census")
def census(ctx: Context) -> Response:
    """Counts of everything that a stream could leave behind."""
    from greenlet import greenlet

    gc.collect()
    kinds = (greenlet, GeneratorType, DisconnectWatcher, Stream, GreenletPump, Response)
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith("gevent.libev"):
            found[f"a watcher: {type(thing).__name__}"] += 1
        for kind in kinds:
            if isinstance(thing, kind) and not getattr(thing, "dead", False):
                found[kind.__name__] += 1
    ticker = process_ticker(cooperative=cooperative())
    found["ticker's members"] = len(ticker.members)
    found["ticker's suspects"] = len(ticker.suspects)
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["threads"] = len(sys._current_frames())
    found["known threads"] = threading.active_count()
    return ctx.json(found)


app = create_app()
app.use(router)
