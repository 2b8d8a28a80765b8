"""The events of test_sse_peers.py, and the application that sends them."""

import random
from collections.abc import Iterable, Iterator

from vento_wsgi import Context, Event, Response, create_app, create_router

SEED = 20
SPECIAL = "a \t\n\r\n\r:\0\x0b\x0c\x1c\x1f\x7f\x85\xa0\u2028\u2029\ufeff\ufffdäßא世😀👩‍💻"

NASTY = [
    Event("one line"),
    Event("several\nlines\n\nof data"),
    Event("CR\rCRLF\r\nLF\nLFCR\n\r."),
    Event(""),
    Event("\n"),
    Event("\n\n"),
    Event("\nleading and trailing\n"),
    Event(" "),
    Event("  leading spaces"),
    Event("\tleading tab"),
    Event("trailing spaces  "),
    Event(":a: colon:s:"),
    Event("data: data: x\nevent: y\nid: z"),
    Event("emoji 😀 and 👩‍💻, ß, א, 世界"),
    Event("no newlines \u2028 \u2029 \x85 \x0b \x0c \x1c"),
    Event("NUL \0 in data"),
    Event("\ufeffbyte order marks\ufeff\n\ufeff"),
    Event({"text": "a\nb", "of": [1, 2.5, None, True, "ä"]}),
    Event("typed", event="tick"),
    Event("message, in so many words", event="message"),
    Event("odd type", event=" a: \0b ä😀 "),
    Event("error, as a type", event="error"),
    Event("open, as a type", event="open"),
    Event("type does not stay"),
    Event(event="nobody sees this"),
    Event("nor was it left over"),
    Event("with an id", id="1"),
    Event("the id stays"),
    Event(id="2"),
    Event("an id alone is kept"),
    Event("odd id", id="  :ä😀\t "),
    Event("number", id=7),
    Event("reset", id=""),
    Event("still reset"),
    Event("large", id="9" * 1000),
    Event(retry=10_000),
    Event("with a retry", retry=20_000, id="3", event="tick"),
    Event(comment=""),
    Event(comment="nobody\nsees\r\nthis: data: x"),
    Event("commented", comment=" spaced"),
    Event("all\nof it", event="all", id="4", retry=30_000, comment="a\nb"),
    Event("x" * 100_000),
    Event("\n" * 1000),
]


def some(chance: random.Random, without: str = "") -> str:
    size = chance.choice([0, 1, 2, 5, 20])
    return "".join(c for c in chance.choices(SPECIAL, k=size) if c not in without)


def anything(chance: random.Random) -> Event:
    """An event with some of the fields that it may have."""
    return Event(
        some(chance) if chance.random() < 0.8 else None,
        event=chance.choice([None, "tick", "type: " + some(chance, "\r\n")]),
        id=chance.choice([None, "", some(chance, "\r\n\0")]),
        retry=chance.choice([None, None, chance.randrange(10**15)]),
        comment=chance.choice(["", some(chance)]),
    )


def as_read(events: Iterable[Event]) -> Iterator[Event]:
    """What decode() gives for `events`. A line outside of an event is an item by itself."""
    for event in events:
        if not event.is_aside:
            yield event
            continue
        if event.retry is not None:
            yield Event(retry=event.retry)
        if event.comment is not None:
            yield from (Event(comment=line) for line in event.comment.split("\n"))


def events() -> Iterator[Event]:
    chance = random.Random(SEED)
    yield from NASTY
    for _ in range(300):
        yield anything(chance)
    yield Event(retry=60_000)  # replaces earlier retries, so that no client reconnects meanwhile
    yield Event("the last", event="end")


def garbage() -> bytes:
    """A stream that no encoder would make, with a proper end."""
    chance = random.Random(SEED)
    names = [b"data", b"event", b"id", b"retry", b"", b"Data", b" data", b"dat", b"\xef\xbb\xbf"]
    values = [b"", b" ", b"  x", b"x", b":", b"1", b"\0", b"\xff", b"\xe2\x82", b"\xed\xa0\x80"]
    values += [b"\xc3", b"\xf0\x9f\x98\x80", b"\xf0\x9f", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80"]
    stream = b"\xef\xbb\xbf"
    for _ in range(3000):
        name, value = chance.choice(names), b"".join(chance.choices(values, k=3))
        field = chance.choice([name, name + b":" + value, name + b": " + value])
        stream += field + chance.choice([b"\n", b"\r", b"\r\n"]) * chance.choice([1, 1, 2])
    return stream + b"\n\nretry: 60000\nevent: end\ndata\n\n"


router = create_router()


@router.get("/")
def page(ctx: Context) -> Response:
    return ctx.html("<!doctype html><title>A page of the same origin</title>")


@router.get("/events")
def corpus(ctx: Context) -> Response:
    return ctx.sse(events())


@router.get("/garbage")
def foreign(ctx: Context) -> Response:
    return ctx.stream(garbage(), "text/event-stream")


app = create_app()
app.use(router)
