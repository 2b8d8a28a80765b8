"""How a stream ends: once, for one reason, with its source closed."""

import io
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, NoReturn, cast
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from support.in_process import AppIter, Source, answer, iterate
from support.servers import OPENING
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import create_environ

from vento_wsgi import CloseReason, Event, Response, StreamAborted, decode
from vento_wsgi.streaming.endings import FAILED
from vento_wsgi.streaming.environ import ROUTE
from vento_wsgi.streaming.stream import Stream

TEXT = "text/plain"
EVENTS = "text/event-stream"


def stream(source: Source, **options: Any) -> Stream:
    """A stream in the way that a response makes one."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/path"}
    return Stream(iter(source), source.close, environ, **options)


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def failing() -> Generator[bytes, None, None]:
    yield b"data: one\n\n"
    raise RuntimeError("the model is gone")


# The opening.


@pytest.mark.parametrize(("kind", "opening"), [(TEXT, b""), (EVENTS, OPENING)])
def test_headers_can_leave_before_the_source_is_touched(kind: str, opening: bytes) -> None:
    source = Source(b"a")
    app_iter = answer(Response(source, content_type=kind))
    with closing(app_iter):
        chunks = iter(app_iter)
        assert next(chunks) == opening
        assert source.taken == 0
        assert next(chunks) == b"a"


@pytest.mark.parametrize("kind", [TEXT, EVENTS])
def test_a_server_that_sends_headers_with_a_write_sends_them_before_it_iterates(kind: str) -> None:
    source, written = Source(b"a"), []

    def write(data: bytes) -> None:
        written.append((data, source.taken))

    app_iter = Response(source, content_type=kind)(create_environ(), lambda *_: write)
    cast(AppIter, app_iter).close()
    assert written == [(b"", 0)]


def test_a_chunk_is_taken_only_when_the_server_asks_for_it() -> None:
    source = Source(b"a", b"b", b"c")
    for number, _ in enumerate(stream(source)):
        assert source.taken == number


def test_the_opening_of_an_event_stream_is_nothing_to_a_client() -> None:
    sent, _ = iterate(answer(Response([Event("a")], content_type=EVENTS)))
    assert [event for event in decode([sent]) if event.data is not None] == [Event("a")]


# Exhausted.


def test_an_exhausted_stream_has_sent_all_and_closed_its_source() -> None:
    source = Source(b"a", b"b")
    app_iter = stream(source)
    assert list(app_iter) == [b"", b"a", b"b"]
    assert app_iter.reason is CloseReason.EXHAUSTED
    assert source.closed == 1


def test_an_exhausted_stream_stays_exhausted() -> None:
    source = Source(b"a")
    app_iter = stream(source)
    assert list(app_iter) == [b"", b"a"]
    assert list(app_iter) == []
    app_iter.close()
    assert app_iter.reason is CloseReason.EXHAUSTED
    assert source.closed == 1


def test_an_exhausted_stream_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    assert iterate(answer(Response(iter(["a"])))) == (b"a", True)
    assert errors(caplog) == []


# Closed by the server before its end.


@pytest.mark.parametrize("taken", [0, 1, 2], ids=["never started", "opened", "in the middle"])
def test_a_stream_that_the_server_closes_early_closes_its_source(
    taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(b"a", b"b")
    app_iter = stream(source)
    for _ in range(taken):
        next(iter(app_iter))
    reasons = [app_iter.reason]
    app_iter.close()
    assert [*reasons, app_iter.reason] == [None, CloseReason.DISCONNECTED]
    assert source.closed == 1
    assert source.taken == max(0, taken - 1)
    assert errors(caplog) == []


def test_close_is_idempotent() -> None:
    source = Source(b"a", b"b")
    app_iter = stream(source)
    next(iter(app_iter))
    for _ in range(3):
        app_iter.close()
    assert source.closed == 1


def test_a_closed_stream_gives_nothing_more() -> None:
    source = Source(b"a", b"b")
    app_iter = stream(source)
    app_iter.close()
    assert list(app_iter) == []
    assert source.taken == 0


def test_a_generator_is_ended_at_the_line_where_it_stands() -> None:
    happened = []

    def source() -> Iterator[bytes]:
        try:
            yield b"a"
            happened.append("went on")
        except GeneratorExit:
            happened.append("left")
            raise
        finally:
            happened.append("cleaned up")

    app_iter = answer(Response(source()))
    chunks = iter(app_iter)
    assert [next(chunks), next(chunks)] == [b"", b"a"]
    assert happened == []
    app_iter.close()
    assert happened == ["left", "cleaned up"]


def test_a_server_that_never_starts_the_body_still_closes_it() -> None:
    source = Source(b"a")
    answer(Response(source)).close()
    assert (source.taken, source.closed) == (0, 1)


@pytest.mark.parametrize("kind", [TEXT, EVENTS])
@pytest.mark.parametrize("at", ["start_response", "write"])
def test_a_client_that_leaves_before_the_headers_has_the_source_closed(at: str, kind: str) -> None:
    def gone(*_: object) -> NoReturn:
        raise BrokenPipeError

    def start_response(*_: object) -> Callable[[bytes], object]:
        return gone(at) if at == "start_response" else gone

    source = Source(b"a")
    response = Response(source, content_type=kind)
    with suppress(BrokenPipeError):
        iterate(cast(AppIter, response(create_environ(), start_response)))
    assert (source.taken, source.closed) in [(0, 1), (1, 1)]


# No body at all.


@pytest.mark.parametrize("kind", [TEXT, EVENTS])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_response_without_a_body_closes_its_source_untouched(
    method: str, status: int, kind: str
) -> None:
    source = Source(b"a")
    callbacks = []
    response = Response(source, status, content_type=kind)
    response.call_on_close(lambda: callbacks.append(source.closed))
    assert iterate(answer(response, method)) == (b"", True)
    assert (source.taken, source.closed) == (0, 1)
    assert callbacks == [1]


# Failed.


def test_a_failure_breaks_the_connection_off_at_once() -> None:
    app_iter = answer(Response(failing()))
    chunks = iter(app_iter)
    assert [next(chunks), next(chunks)] == [b"", b"data: one\n\n"]
    with pytest.raises(StreamAborted):
        next(chunks)
    app_iter.close()


def test_a_failure_tells_an_event_stream_first_and_nothing_of_the_cause() -> None:
    app_iter = answer(Response(failing(), content_type=EVENTS))
    chunks = iter(app_iter)
    assert [next(chunks), next(chunks)] == [OPENING, b"data: one\n\n"]
    told = next(chunks)
    assert told == FAILED
    with pytest.raises(StreamAborted):
        next(chunks)
    app_iter.close()


@pytest.mark.parametrize("half", ["data: the first half, ", "data: the first half, \n", "id: 7"])
def test_a_failure_makes_no_event_of_half_a_block(half: str) -> None:
    source = Source("data: whole\n\n", half, RuntimeError())
    sent, whole = iterate(answer(Response(source, content_type=EVENTS)))
    assert not whole
    told = [event for event in decode([sent]) if event.data is not None]
    assert told in ([Event("whole")], [Event("whole"), *decode([FAILED])])


def test_a_failed_stream_stays_failed() -> None:
    source = Source(b"a", RuntimeError())
    app_iter = stream(source)
    with suppress(StreamAborted):
        list(app_iter)
    for _ in range(2):
        with pytest.raises(StreamAborted):
            next(iter(app_iter))
    app_iter.close()
    assert app_iter.reason is CloseReason.FAILED
    assert source.closed == 1


@pytest.mark.parametrize("kind", [TEXT, EVENTS])
def test_a_failure_closes_the_source_before_the_server_hears_of_it(kind: str) -> None:
    source = Source(b"a", RuntimeError())
    app_iter = answer(Response(source, content_type=kind))
    chunks = iter(app_iter)
    assert [next(chunks), next(chunks), source.closed] == [OPENING * (kind == EVENTS), b"a", 0]
    with suppress(StreamAborted):
        next(chunks)
    assert source.closed == 1
    app_iter.close()
    assert source.closed == 1


@pytest.mark.parametrize("kind", [TEXT, EVENTS])
def test_a_failure_is_logged_once_with_its_traceback_and_its_route(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = Response(failing(), content_type=kind)
    _, whole = iterate(answer(response, **{ROUTE: "GET /chats/<id>"}))
    assert not whole
    (record,) = errors(caplog)
    assert record.name == "vento_wsgi.streaming.stream"
    assert "GET /chats/<id>" in record.getMessage()
    assert record.exc_text is not None
    assert "in failing" in record.exc_text
    assert "RuntimeError: the model is gone" in record.exc_text


def test_without_a_route_the_log_names_the_request(caplog: pytest.LogCaptureFixture) -> None:
    iterate(answer(Response(failing()), "POST"))
    (record,) = errors(caplog)
    assert "POST /path" in record.getMessage()


def test_a_request_without_a_path_can_fail_as_well(caplog: pytest.LogCaptureFixture) -> None:
    # PEP 3333: PATH_INFO may be missing where it would be empty.
    environ = create_environ()
    del environ["PATH_INFO"]
    app_iter = Response(failing())(environ, lambda *_: lambda _: None)
    assert iterate(cast(AppIter, app_iter)) == (b"data: one\n\n", False)
    assert len(errors(caplog)) == 1


def test_what_the_server_is_told_shows_nothing_of_the_cause_and_is_a_broken_pipe() -> None:
    app_iter = stream(Source(RuntimeError("secret")))
    next(iter(app_iter))
    with pytest.raises(BrokenPipeError) as abort:
        next(iter(app_iter))
    assert isinstance(abort.value, StreamAborted)
    assert "secret" not in str(abort.value)
    assert abort.value.__suppress_context__


def test_a_bad_item_is_a_failure_of_its_source(caplog: pytest.LogCaptureFixture) -> None:
    source = Source("a", {"b": 1})
    assert iterate(answer(Response(source))) == (b"a", False)
    assert source.closed == 1
    (record,) = errors(caplog)
    assert record.exc_text is not None
    assert "an item of a body cannot be dict: use ctx.json" in record.exc_text


def test_an_event_in_a_stream_that_is_not_one_of_events_is_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert iterate(answer(Response(iter([Event("a")])))) == (b"", False)
    (record,) = errors(caplog)
    assert record.exc_text is not None
    assert 'give the stream the content type "text/event-stream"' in record.exc_text


def test_a_stream_that_was_broken_off_within_is_not_logged_a_second_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(b"a", StreamAborted("the file shrank"))
    app_iter = stream(source)
    with pytest.raises(StreamAborted, match="the file shrank"):
        list(app_iter)
    assert app_iter.reason is CloseReason.FAILED
    assert source.closed == 1
    assert errors(caplog) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_process_passes_through_and_the_source_is_closed(
    stop: type[BaseException],
) -> None:
    source = Source(b"a", stop())
    app_iter = stream(source)
    with pytest.raises(stop), closing(app_iter):
        list(app_iter)
    assert source.closed == 1


# Errors in closing.


class Unclosable(Source):
    def close(self) -> None:
        super().close()
        raise OSError("the disk is gone")


SENT = pytest.mark.parametrize("sent", [0, 2, 4], ids=["never started", "left", "exhausted"])


def leave(app_iter: AppIter, sent: int) -> None:
    """Take `sent` chunks, or all if there are not as many, and close twice."""
    for _ in zip(range(sent), app_iter):
        pass
    app_iter.close()
    app_iter.close()


@SENT
def test_an_error_in_closing_is_logged_and_the_callbacks_run(
    sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    source, ran = Unclosable(b"a", b"b"), []
    response = Response(source)
    response.call_on_close(lambda: ran.append("first"))
    response.call_on_close(lambda: ran.append("second"))
    leave(answer(response), sent)
    assert source.closed == 1
    assert ran == ["first", "second"]
    (record,) = errors(caplog)
    assert "GET /path: closing its source failed" in record.getMessage()
    assert "the disk is gone" in str(record.exc_text)


@SENT
def test_an_error_in_a_callback_is_logged_and_the_other_callbacks_run(
    sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    source, ran = Source(b"a", b"b"), []
    response = Response(source)
    response.call_on_close(lambda: ran.append("first"))
    response.call_on_close(lambda: 1 / 0)
    response.call_on_close(lambda: ran.append("third"))
    leave(answer(response), sent)
    assert source.closed == 1
    assert ran == ["first", "third"]
    (record,) = errors(caplog)
    assert "ZeroDivisionError" in str(record.exc_text)


@SENT
def test_of_several_errors_in_closing_all_are_logged(
    sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    response = Response(Unclosable(b"a", b"b"))
    response.call_on_close(lambda: 1 / 0)
    leave(answer(response), sent)
    assert "the disk is gone" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_error_in_closing_does_not_hide_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    source = Unclosable(b"a", RuntimeError("the model is gone"))
    assert iterate(answer(Response(source))) == (b"a", False)
    assert source.closed == 1
    failed, unclosed = errors(caplog)
    assert "the model is gone" in str(failed.exc_text)
    assert "the disk is gone" in str(unclosed.exc_text)


def test_a_generator_that_ignores_its_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def source() -> Iterator[bytes]:
        try:
            yield b"a"
        finally:
            yield b"no end"

    leave(answer(Response(source())), 2)
    (record,) = errors(caplog)
    assert "generator ignored GeneratorExit" in str(record.exc_text)


# A body that is not as long as its Content-Length said.


def sized(length: int, *chunks: bytes | Exception, kind: str = TEXT) -> tuple[Response, Source]:
    source = Source(*chunks)
    return Response(source, headers={"Content-Length": str(length)}, content_type=kind), source


@pytest.mark.parametrize("chunks", [(b"abcdef",), (b"abc", b"def"), (b"abcdef", b"")])
def test_a_body_of_the_length_that_was_announced_is_whole(
    chunks: Sequence[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    response, source = sized(6, *chunks)
    assert iterate(answer(response)) == (b"abcdef", True)
    assert source.closed == 1
    assert errors(caplog) == []


@pytest.mark.parametrize("chunks", [(), (b"abc",), (b"abc", b"de")])
def test_a_body_that_is_too_short_breaks_the_connection_off(
    chunks: Sequence[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    response, source = sized(6, *chunks)
    assert iterate(answer(response)) == (b"".join(chunks), False)
    assert source.closed == 1
    (record,) = errors(caplog)
    missing = 6 - sum(map(len, chunks))
    assert f"GET /path: the body ended {missing} bytes short" in record.getMessage()


@pytest.mark.parametrize("chunks", [(b"abcdefgh",), (b"abcd", b"efgh"), (b"abcdef", b"gh")])
def test_a_body_that_is_too_long_is_cut_and_breaks_the_connection_off(
    chunks: Sequence[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    response, source = sized(6, *chunks, b"and more")
    assert iterate(answer(response)) == (b"abcdef", False)
    assert source.closed == 1
    assert source.taken == len(chunks)
    (record,) = errors(caplog)
    assert "GET /path: the body is longer than its Content-Length" in record.getMessage()


def test_an_empty_body_of_length_0_is_whole() -> None:
    response, source = sized(0)
    assert iterate(answer(response)) == (b"", True)
    assert source.closed == 1


EVENT = Event("a").encode()


@pytest.mark.parametrize(
    ("chunks", "whole"),
    [
        pytest.param([EVENT], True, id="as long"),
        pytest.param([EVENT, EVENT], False, id="too long"),
        pytest.param([EVENT[:4]], False, id="too short"),
        pytest.param([RuntimeError()], False, id="failed"),
        pytest.param([EVENT, RuntimeError()], False, id="failed at its end"),
    ],
)
def test_an_event_stream_never_sends_more_than_its_content_length(
    chunks: Sequence[bytes | Exception], whole: bool
) -> None:
    response, source = sized(len(EVENT), *chunks, kind=EVENTS)
    sent, ended_well = iterate(answer(response))
    assert ended_well is whole
    assert len(sent) <= len(EVENT)
    assert source.closed == 1


def test_a_file_of_events_is_sent_in_the_length_that_it_has() -> None:
    response = Response(io.BytesIO(EVENT * 3), content_type=EVENTS)
    sent, whole = iterate(answer(response))
    assert whole
    assert sent.endswith(EVENT * 3)
    assert response.content_length in (None, len(sent))


# What the rules of WSGI say of it: both of these complain by AssertionError or a warning.

RESPONSES: dict[str, Callable[[], Response]] = {
    "text": lambda: Response("ä"),
    "bytes": lambda: Response(b"a"),
    "nothing": lambda: Response(),
    "generator": lambda: Response(c for c in "abc"),
    "list": lambda: Response(["a", b"b"]),
    "file in memory": lambda: Response(io.BytesIO(b"abc")),
    "events": lambda: Response([Event("a")], content_type=EVENTS),
    "a length": lambda: sized(3, b"a", b"bc")[0],
    "hop-by-hop headers": lambda: Response(iter("a"), headers={"Connection": "keep-alive"}),
    "204": lambda: Response(status=204),
    "204 of a generator": lambda: Response(iter("a"), 204),
    "304": lambda: Response(status=304),
    "304 of a generator": lambda: Response(iter("a"), 304),
    "404": lambda: Response("not here", 404),
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("make", RESPONSES.values(), ids=RESPONSES)
def test_wsgiref_has_nothing_to_say_against_a_response(
    make: Callable[[], Response], method: str
) -> None:
    with make() as response:
        run(validator(response), method)


# werkzeug takes HEAD for GET, and misses a Content-Length in a 204, where RFC 9110 forbids it.
@pytest.mark.parametrize("name", [name for name in RESPONSES if not name.startswith("204")])
def test_werkzeug_has_nothing_to_say_against_a_response(name: str) -> None:
    with RESPONSES[name]() as response:
        run(LintMiddleware(response), "GET")


@pytest.mark.parametrize("judge", [validator, LintMiddleware], ids=["wsgiref", "werkzeug"])
@pytest.mark.parametrize("kind", [TEXT, EVENTS])
def test_wsgi_has_nothing_to_say_against_a_stream_that_is_left(
    kind: str, judge: Callable[[Any], Any]
) -> None:
    source = Source(b"a", b"b")
    run(judge(Response(source, content_type=kind)), "GET", chunks=2)
    assert source.closed == 1


def run(app: Any, method: str, chunks: int | None = None) -> None:
    """Do as PEP 3333 asks of a server; take no more than `chunks`."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "QUERY_STRING": ""}
    setup_testing_defaults(environ)

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        assert exc_info is None
        assert status
        assert isinstance(headers, list)
        return lambda _: None

    app_iter: Iterable[bytes] = app(environ, start_response)
    try:
        for number, _ in enumerate(app_iter, 1):
            if number == chunks:
                break
    finally:
        app_iter.close()  # type: ignore[attr-defined]
