"""compress: which responses are coded, how, and what is said of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from support.codings import CODINGS, Decoder
from werkzeug.exceptions import NotFound
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from vento_wsgi import Context, Event, Response, StreamAborted, create_app, create_router
from vento_wsgi.bodies.codings import LEVELS, encoders
from vento_wsgi.middleware import compress
from vento_wsgi.streaming.endings import FAILED

TEXT = "To be compressed, or not to be compressed. " * 50


def client(handler: Callable[[Context], Any], **options: Any) -> Client:
    router = create_router()
    router.get("/", handler)
    app = create_app()
    app.use(compress(**options))
    app.use(router)
    return Client(app)


def ask(tested: Client, accepts: str | None = "gzip", method: str = "GET", **fields: str) -> Any:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if accepts is not None:
        headers["Accept-Encoding"] = accepts
    return tested.open("/", method=method, headers=headers, buffered=True)


# Negotiation


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("deflate", None),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, br;q=0.5", "gzip"),
        ("gzip;q=0.5, zstd;q=0.8", "zstd"),
        ("*", "br"),
        ("br;q=0, *", "zstd"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.8", "gzip"),
        ("identity;q=0, br", "br"),
        ("identity;q=0", None),
        ("gzip;q=nonsense", None),
        ("\xff, ;;;=", None),
    ],
)
def test_the_client_says_which_coding_it_is(accepts: str | None, coding: str | None) -> None:
    response = ask(client(lambda ctx: ctx.text(TEXT)), accepts)
    assert response.headers.get("Content-Encoding") == coding
    assert response.headers["Vary"] == "Accept-Encoding"
    data = response.data if coding is None else Decoder(coding)(response.data)
    assert data == TEXT.encode()
    assert response.content_length == len(response.data)


def test_streams_are_gzip_where_the_client_takes_several() -> None:
    response = ask(client(lambda ctx: ctx.sse(range(9))), "gzip, deflate, br, zstd")
    assert response.headers["Content-Encoding"] == "gzip"
    tested = client(lambda ctx: ctx.stream(iter([TEXT]), "text/plain"))
    response = ask(tested, "gzip, deflate, br, zstd")
    assert response.headers["Content-Encoding"] == "gzip"


def test_what_is_not_installed_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert ask(client(lambda ctx: ctx.text(TEXT)), "br").data == TEXT.encode()
    assert ask(client(lambda ctx: ctx.text(TEXT)), "br, zstd").content_encoding == "zstd"


# What is left as it is


def told(body: object, status: int = 200, kind: str = "text/plain", **fields: str) -> Client:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return client(lambda _: Response(body, status, headers, kind))


@pytest.mark.parametrize(
    "tested",
    [
        told(TEXT, Cache_Control="public, No-Transform"),
        told(TEXT, Content_Encoding="br"),
        told(TEXT, Content_Encoding="identity"),
        told(TEXT, 206, Content_Range=f"bytes 0-{len(TEXT) - 1}/9999"),
        told(TEXT, Content_Digest="sha-256=:AAAA:"),
        told(TEXT, kind="image/png"),
        told(TEXT, kind=""),
        told("short"),
        client(lambda _: Response(iter(["short"]), headers={"Content-Length": "5"})),
        told(b"".join(bytes((n * 7 % 256, n % 251)) for n in range(300))),
        told(b"", 204),
    ],
)
def test_it_refuses(tested: Client) -> None:
    before, after = ask(tested, None), ask(tested)
    assert after.data == before.data
    assert dict(after.headers) == dict(before.headers)


def test_what_could_have_been_coded_varies_and_what_never_is_does_not() -> None:
    assert "Vary" not in ask(told(TEXT, kind="image/png")).headers
    assert "Vary" not in ask(told(TEXT, Cache_Control="no-transform")).headers
    assert ask(told("short")).headers["Vary"] == "Accept-Encoding"
    assert ask(told(TEXT, Vary="Origin")).headers["Vary"] == "Origin, Accept-Encoding"
    assert ask(told(TEXT, Vary="accept-encoding")).headers["Vary"] == "accept-encoding"
    assert ask(told(TEXT, Vary="*")).headers["Vary"] == "*"


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json", "TEXT/x; a=b"])
def test_types_are_what_text_is(kind: str) -> None:
    assert ask(told(TEXT, kind=kind)).content_encoding == "gzip"


def test_an_error_is_compressed_as_well() -> None:
    def missing(_: Context) -> None:
        raise NotFound(TEXT)

    tested = client(missing)
    response = ask(tested)
    assert response.status_code == 404
    assert json.loads(Decoder("gzip")(response.data))["detail"] == TEXT


@pytest.mark.parametrize(
    "options",
    [
        {"level": {"gzip": 0}},
        {"level": {"deflate": 6}},
        {"level": {"zstd": 19}},
        {"minimum": -1},
        {"minimum": 1.5},
        {"types": "text/*"},
        {"types": ["html"]},
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        compress(**options)


def test_options_do_what_they_say() -> None:
    assert ask(client(lambda ctx: ctx.text("a" * 99), minimum=99)).content_encoding == "gzip"
    assert ask(client(lambda ctx: ctx.text("a" * 98), minimum=99)).content_encoding is None
    assert ask(client(lambda ctx: ctx.text(TEXT), types=["image/*"])).content_encoding is None
    assert ask(client(lambda ctx: ctx.text(TEXT), types=())).content_encoding is None
    words = json.dumps([{"n": n, "square": n * n} for n in range(3000)])
    best, fast = (
        len(ask(client(lambda ctx: ctx.text(words), level={"gzip": level})).data)
        for level in (9, 1)
    )
    assert best < fast


# Validators, HEAD, files


def tagged(ctx: Context) -> Any:
    response = Response(iter([TEXT]), headers={"ETag": '"one"'})
    return response.make_conditional(ctx.environ)


def test_a_strong_etag_becomes_weak_and_is_found_again() -> None:
    tested = client(tagged)
    assert ask(tested, None).headers["ETag"] == '"one"'
    tag = ask(tested).headers["ETag"]
    assert tag == 'W/"one"'
    for accepts, found in (("gzip", 'W/"one"'), (None, '"one"')):
        same = ask(tested, accepts, If_None_Match=tag)
        assert same.status_code == 304
        assert same.headers["ETag"] == found
        assert same.headers["Vary"] == "Accept-Encoding"
        assert "Content-Encoding" not in same.headers


@pytest.mark.parametrize(
    "handler",
    [
        lambda ctx: ctx.text(TEXT),
        lambda ctx: ctx.text(TEXT * 90),
        lambda ctx: ctx.stream(iter([TEXT]), "text/plain"),
        lambda ctx: ctx.sse([1]),
    ],
)
def test_head_says_what_get_does(handler: Callable[[Context], Any]) -> None:
    tested = client(handler)
    get, head = ask(tested), ask(tested, method="HEAD")
    assert head.data == b""
    assert head.headers["Content-Encoding"] == "gzip"
    assert dict(head.headers) == dict(get.headers)


def test_a_long_body_is_coded_as_it_leaves_and_has_no_length() -> None:
    response = ask(client(lambda ctx: ctx.text(TEXT * 90)))
    assert "Content-Length" not in response.headers
    assert Decoder("gzip")(response.data) == (TEXT * 90).encode()


def test_files_are_coded_when_asked_for_but_never_their_ranges(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    plain = ask(client(lambda ctx: ctx.file(path)))
    assert plain.data == TEXT.encode()
    assert "Vary" not in plain.headers
    tested = client(lambda ctx: ctx.file(path), files=True)
    coded = ask(tested)
    assert Decoder("gzip")(coded.data) == TEXT.encode()
    assert not {"Accept-Ranges", "Content-Length"} & set(coded.headers.keys())
    tag = coded.headers["ETag"]
    assert tag == "W/" + plain.headers["ETag"]
    assert ask(tested, If_None_Match=tag).status_code == 304
    assert ask(tested, If_None_Match=tag).headers["ETag"] == tag
    part = ask(tested, Range="bytes=0-9")
    assert (part.status_code, part.data) == (206, TEXT[:10].encode())
    assert "Content-Encoding" not in part.headers
    assert part.headers["ETag"] == plain.headers["ETag"]
    whole = ask(tested, Range="bytes=0-9", If_Range=tag)
    assert Decoder("gzip")(whole.data) == TEXT.encode()


@pytest.mark.parametrize("ranges", ["bytes=0-9", "bytes=0-9,20-29", "bytes=99999-"])
def test_ranges_vary_as_the_whole_does(tmp_path: Path, ranges: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    for accepts in ("gzip", None):
        varies = ask(client(lambda ctx: ctx.file(path), files=True), accepts, Range=ranges)
        assert varies.status_code in (206, 416)
        assert varies.headers["Vary"] == "Accept-Encoding"
    never = ask(client(lambda ctx: ctx.file(path)), Range=ranges)
    assert "Vary" not in never.headers


# Streams


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("live", [True, False])
def test_each_piece_can_be_decoded_when_it_is_there(coding: str, live: bool) -> None:
    encoder, decode = encoders({})[coding](live), Decoder(coding)
    for size in (1, 100, 1000, 100_000):
        piece = bytes(n * n % 251 for n in range(size))
        assert decode(encoder.encode(piece)) == piece
        assert not decode.ended
    assert decode(encoder.finish(b"end")) == b"end"
    assert decode.ended


def test_every_coding_has_a_level() -> None:
    assert set(encoders({})) == set(LEVELS) == set(CODINGS)


def pieces(handler: Callable[[Context], Any], coding: str) -> Iterator[bytes]:
    """What a server is given of a response, with all the rules of PEP 3333 held."""
    router = create_router()
    router.get("/", handler)
    app = create_app()
    app.use(compress())
    app.use(router)
    environ = EnvironBuilder("/?", headers=[("Accept-Encoding", coding)]).get_environ()
    environ["QUERY_STRING"] = ""
    body, _, headers = run_wsgi_app(validator(app), environ)
    assert headers["Content-Encoding"] == coding
    with ExitStack() as stack:
        stack.callback(body.close)  # type: ignore[attr-defined]
        yield from body


def broken(decode: Decoder, pieces: Iterator[bytes]) -> bytes:
    """What there was of a stream that breaks off."""
    seen = b""
    try:
        for piece in pieces:
            seen += decode(piece)
    except StreamAborted:
        return seen
    raise AssertionError("it did not break off")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_stream_gives_each_chunk_decodable_and_ends_once(coding: str) -> None:
    endings: list[Any] = []

    def handler(ctx: Context) -> Any:
        return ctx.stream((f"line {n}\n" for n in range(5)), "text/plain", on_end=endings.append)

    decode, sizes = Decoder(coding), 0
    seen = []
    for piece in pieces(handler, coding):
        seen.append(decode(piece))
        sizes += len(piece)
    assert [line for line in seen if line] == [b"line %d\n" % n for n in range(5)]
    assert decode.ended
    assert [(e.reason, e.bytes) for e in endings] == [("exhausted", sizes)]


@pytest.mark.parametrize("coding", CODINGS)
def test_an_empty_stream_is_a_coding_of_nothing(coding: str) -> None:
    decode = Decoder(coding)
    assert decode(b"".join(pieces(lambda ctx: ctx.stream(iter(()), "text/plain"), coding))) == b""
    assert decode.ended


@pytest.mark.parametrize("coding", CODINGS)
def test_a_stream_that_fails_says_so_and_has_no_end(
    coding: str, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> Iterator[Event]:
        yield Event("one")
        raise RuntimeError("in the middle")

    decode = Decoder(coding)
    seen = broken(decode, pieces(lambda ctx: ctx.sse(failing()), coding))
    assert seen.endswith(b"data: one\n\n" + FAILED)
    assert not decode.ended
    assert "in the middle" in caplog.text


def test_a_deadline_ends_an_event_stream_well() -> None:
    from time import sleep

    def slow() -> Iterator[str]:
        while True:
            yield "tick"
            sleep(0.02)

    decode = Decoder("gzip")
    data = b"".join(
        map(decode, pieces(lambda ctx: ctx.sse(slow(), deadline=0.5, drain="end"), "gzip"))
    )
    assert b"data: tick\n\n" in data
    assert decode.ended


def test_a_body_is_measured_before_it_is_coded(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_: Context) -> Response:
        return Response(iter([TEXT]), headers={"Content-Length": str(len(TEXT) + 1)})

    decode = Decoder("gzip")
    assert broken(decode, pieces(handler, "gzip")) == TEXT.encode()
    assert not decode.ended
    assert "1 bytes short" in caplog.text
