"""testing.Client: streams are read as they come, of any WSGI application, by PEP 3333."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.servers import OPENING, ROOT
from werkzeug.test import TestResponse

from vento_wsgi import (
    CloseReason,
    Context,
    Event,
    Response,
    StreamAborted,
    create_app,
    create_router,
)
from vento_wsgi.testing import Client, StreamResponse

HEAD = ("200 OK", [("Content-Type", "text/plain")])


class Site:
    """An application of ours, and what became of its streams."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.closed: list[str] = []
        router = create_router()

        @router.get("/ticks")
        def ticks(ctx: Context) -> Response:
            def numbers() -> Iterator[Event]:
                try:
                    for number in range(1, 1000):
                        yield Event(number, id=number)
                finally:
                    self.closed.append("ticks")

            return ctx.sse(numbers())

        @router.get("/waits")
        def waits(ctx: Context) -> Response:
            def words() -> Iterator[str]:
                yield "da"
                self.go.wait(60)
                yield "ta: one\n\n"

            return ctx.stream(words(), "text/event-stream")

        @router.get("/fails")
        def fails(ctx: Context) -> Response:
            def words() -> Iterator[bytes]:
                yield b"one"
                raise RuntimeError("the model is gone")

            return ctx.stream(words())

        @router.post("/upper")
        def upper(ctx: Context) -> Response:
            return ctx.stream(chunk.upper() for chunk in ctx.request.chunks())

        @router.get("/early")
        def early(_: Context) -> Response:
            raise RuntimeError("before the head")

        @router.get("/illegal")
        def illegal(ctx: Context) -> Response:
            return ctx.text("text", headers={"X-A": "€"})

        @router.get("/user")
        def user(ctx: Context) -> Response:
            response = ctx.text(ctx.request.cookies.get("user", "nobody"))
            response.set_cookie("user", "ada")
            return response

        self.app = create_app()
        self.app.use(router)
        self.client = Client(self.app)

    def stream(self, path: str, **options: Any) -> StreamResponse:
        return self.client.stream("GET", path, **options)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.go.set()


def test_it_is_werkzeugs_client_as_well(site: Site) -> None:
    response = site.client.get("/user")
    assert isinstance(response, TestResponse)
    assert (response.text, site.client.get("/user").text) == ("nobody", "ada")


def test_events_are_read_as_they_come_and_the_stream_can_be_left(site: Site) -> None:
    with site.stream("/ticks") as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert next(response.events()) == Event(1, id=1)
        assert next(response.events()) == Event(2, id=2)
        during = response.ending
        assert (during, site.closed) == (None, [])
    assert site.closed == ["ticks"]
    ending = response.ending
    assert ending is not None
    assert ending.reason is CloseReason.DISCONNECTED
    assert ending.bytes == len(OPENING + Event(1, id=1).encode() + Event(2, id=2).encode())


def test_a_stream_that_is_read_to_its_end_is_exhausted(site: Site) -> None:
    with site.stream("/ticks") as response:
        events = list(response.events(comments=True))
        assert events[0] == Event(comment="")
        assert events[1] == Event(retry=3000)
        assert len(events) == 1001
        assert response.ending is not None
        assert response.ending.reason is CloseReason.EXHAUSTED
        assert list(response.chunks()) == []


def test_a_response_that_breaks_off_is_not_taken_for_a_whole_one(site: Site) -> None:
    with site.stream("/fails") as response:
        assert next(response.chunks()) == b"one"
        with pytest.raises(StreamAborted):
            next(response.chunks())
    assert response.ending is not None
    assert response.ending.reason is CloseReason.FAILED


def test_a_wait_has_an_end_and_can_be_tried_again(site: Site) -> None:
    with site.stream("/waits", timeout=0.5) as response:
        with pytest.raises(TimeoutError) as late:
            next(response.events())
        assert "GET /waits: nothing came within 0.5 s, after 2 chunks" in str(late.value)
        assert f"it waits in words, {__file__}:" in str(late.value)
        site.go.set()
        assert next(response.events()).data == "one"


def test_who_leaves_is_told_if_the_application_does_not_notice(site: Site) -> None:
    response = site.stream("/waits", timeout=0.5)
    with pytest.raises(TimeoutError):
        next(response.events())
    with pytest.raises(TimeoutError, match=r"did not end within 0.5 s .* it waits in words"):
        response.close()
    site.go.set()


def test_what_happens_in_the_test_is_not_hidden_by_what_follows(site: Site) -> None:
    def test() -> None:
        with site.stream("/waits", timeout=0.5) as response:
            assert next(response.chunks()) == OPENING + b"da"

    with pytest.raises(AssertionError):
        test()


def test_a_request_is_made_as_werkzeug_makes_it(site: Site) -> None:
    with site.client.stream("POST", "/upper", data=b"abc") as response:
        assert list(response.chunks()) == [b"ABC"]
    with site.stream("/user") as response:
        assert list(response.chunks()) == [b"nobody"]
        assert response.ending is None  # it is no stream
    with site.stream("/user") as response:
        assert list(response.chunks()) == [b"ada"]
    with pytest.raises(TypeError, match="does not follow redirects"):
        site.stream("/user", follow_redirects=True)


def test_errors_before_the_head_are_responses(site: Site) -> None:
    for path in ("/early", "/illegal"):
        with site.stream(path) as response:
            assert response.status_code == 500
            assert b"Internal Server Error" in b"".join(response.chunks())


def test_a_head_has_no_body(site: Site) -> None:
    with site.client.stream("HEAD", "/ticks") as response:
        assert list(response.chunks()) == []
    assert site.closed == []


# Any WSGI application.

App = Callable[[dict[str, Any], Any], Any]


def stream(app: App, **options: Any) -> StreamResponse:
    return Client(app).stream("GET", "/", **options)


def test_a_generator_may_start_the_response_itself() -> None:
    def app(_: Any, start_response: Any) -> Iterator[bytes]:
        start_response(*HEAD)
        yield b"one"
        yield b""
        yield b"two"

    with stream(app) as response:
        assert response.headers["Content-Type"] == "text/plain"
        assert list(response.chunks()) == [b"one", b"two"]
        assert response.ending is None


def test_what_is_written_comes_first() -> None:
    def app(_: Any, start_response: Any) -> list[bytes]:
        write = start_response(*HEAD)
        write(b"one")
        write(b"")
        write(b"two")
        return [b"three"]

    with stream(app) as response:
        assert list(response.chunks()) == [b"one", b"two", b"three"]


def test_who_writes_to_a_client_that_left_is_told() -> None:
    told = []

    def app(_: Any, start_response: Any) -> list[bytes]:
        write = start_response(*HEAD)
        try:
            write(b"one")
            write(b"two")
        except BrokenPipeError as error:
            told.append(error)
        return []

    with stream(app) as response:
        assert next(response.chunks()) == b"one"
    assert len(told) == 1


class Closing:
    def __init__(self, *chunks: Any) -> None:
        self.chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_close_is_called_once(taken: int) -> None:
    body = Closing(b"1", b"2")

    def app(_: Any, start_response: Any) -> Closing:
        start_response(*HEAD)
        return body

    with stream(app) as response:
        for _ in zip(range(taken), response.chunks()):
            pass
    response.close()
    assert body.closed == 1


def test_close_is_called_after_an_error_which_is_raised() -> None:
    body = Closing(b"1", RuntimeError("in mid-stream"))

    def app(_: Any, start_response: Any) -> Closing:
        start_response(*HEAD)
        return body

    with stream(app) as response, pytest.raises(RuntimeError, match="in mid-stream"):
        list(response.chunks())
    assert body.closed == 1


@pytest.mark.parametrize("sent", [True, False])
def test_a_second_head_replaces_the_first_until_that_is_sent(sent: bool) -> None:
    def app(_: Any, start_response: Any) -> Iterator[bytes]:
        start_response(*HEAD)
        yield b"one" if sent else b""
        try:
            raise RuntimeError("too late")
        except RuntimeError:
            start_response("500 Sorry", [], sys.exc_info())
        yield b"sorry"

    with stream(app) as response:
        if sent:
            assert next(response.chunks()) == b"one"
            with pytest.raises(RuntimeError, match="too late"):
                next(response.chunks())
        else:
            assert list(response.chunks()) == [b"sorry"]
        assert response.status_code == (200 if sent else 500)


def bad(head: tuple[Any, Any] | None, body: Any, *, twice: bool = False) -> App:
    def app(_: Any, start_response: Any) -> Any:
        for _ in range(1 + twice):
            if head is not None:
                start_response(*head)
        return body

    return app


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (bad(HEAD, b"bytes"), "an iterable"),
        (bad(HEAD, ["text"]), "a chunk is bytes, not 'text'"),
        (bad(HEAD, [None]), "a chunk is bytes, not None"),
        (bad(None, [b"one"]), "start_response was not called"),
        (bad(None, []), "start_response was not called"),
        (bad(HEAD, [], twice=True), "a second start_response"),
        (bad((200, []), []), "a status is text"),
        (bad(("200", []), []), "a status is '200 OK'"),
        (bad(("200 OK", ()), []), "headers are a list"),
        (bad(("200 OK", [["A", "b"]]), []), "a header is a pair"),
        (bad(("200 OK", [("A", b"b")]), []), "a pair of texts"),
        (bad(("200 OK", [("A:", "b")]), []), "cannot be sent"),
        (bad(("200 OK", [("A", "b\r\nC: d")]), []), "cannot be sent"),
        (bad(("200 OK", [("Connection", "close")]), []), "only the server may send"),
        (bad(("200 OK", [("Content-Length", "3")]), [b"four"]), "4 bytes, .* says 3"),
        (bad(("200 OK", [("Content-Length", "3")]), [b"2", b""]), "1 bytes, .* says 3"),
    ],
)
def test_an_application_that_breaks_a_rule_is_told(app: App, says: str) -> None:
    def test() -> None:
        with stream(app) as response:
            list(response.chunks())

    with pytest.raises(AssertionError, match=says):
        test()


def test_a_head_that_does_not_come_is_waited_for_only_so_long() -> None:
    go = threading.Event()

    def app(_: Any, start_response: Any) -> list[bytes]:
        go.wait(60)
        start_response(*HEAD)
        return []

    with pytest.raises(TimeoutError, match=r"GET /: no head came within 0.5 s"):
        stream(app, timeout=0.5)
    go.set()


def test_flasks_streams_are_read_as_well() -> None:
    flask: Any = pytest.importorskip("flask")
    app = flask.Flask("site")
    go = threading.Event()

    def home() -> Any:
        def words() -> Iterator[str]:
            yield "one"
            go.wait(60)
            yield "two"

        return flask.Response(flask.stream_with_context(words()))

    app.add_url_rule("/", view_func=home)

    with stream(app) as response:
        assert next(response.chunks()) == b"one"
        go.set()
        assert next(response.chunks()) == b"two"


GEVENT = """
from gevent import monkey
monkey.patch_all()
import time
from vento_wsgi import create_app, create_router, Event
from vento_wsgi.testing import Client

router = create_router()
closed = []

@router.get("/waits")
def waits(ctx):
    def words():
        try:
            yield Event("one")
            time.sleep(60)
        finally:
            closed.append(True)
    return ctx.sse(words())

app = create_app()
app.use(router)
with Client(app).stream("GET", "/waits", timeout=60) as response:
    assert next(response.events()).data == "one"
assert closed == [True]
assert response.ending.reason == "disconnected", response.ending
try:
    with Client(app).stream("GET", "/waits", timeout=0.5) as response:
        next(response.events())
        next(response.events())
except TimeoutError as error:
    assert "nothing came" in str(error)
assert closed == [True, True]
print("well")
"""


def test_under_gevent_a_source_that_waits_notices_that_the_client_left() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GEVENT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr
