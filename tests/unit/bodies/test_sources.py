"""What a body may be, which chunks it gives, and that it is closed."""

import collections
import gzip
import inspect
import io
import mmap
import os
import socket
import subprocess
import threading
import types
import urllib.request
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from vento_wsgi import BodyError, Event, VentoError
from vento_wsgi.bodies.sources import READ_SIZE, Chunks, encode

SH = ("sh", "-c", "printf first; read go; printf second")
"""A program that has more to say, but not before it is told to."""


def read(body: object) -> list[bytes]:
    """The chunks of a body, which is closed after the last."""
    with closing(Chunks(body)) as chunks:
        return list(chunks)


# Bodies that take note of what is done with them.


class Closable:
    """Counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Items(Closable):
    """An iterator with close()."""

    def __init__(self, *items: object) -> None:
        super().__init__()
        self._items = iter(items)

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        item = next(self._items)
        if isinstance(item, Exception):
            raise item
        return item


class Collection(Closable):
    """An iterable with close(), whose iterator has one as well, as response objects are."""

    def __init__(self, *items: object) -> None:
        super().__init__()
        self._items = items
        self.iterators: list[Items] = []

    def __iter__(self) -> Iterator[object]:
        self.iterators.append(Items(*self._items))
        return iter(self.iterators[-1])


class File(Closable):
    """An object with read(), and nothing else that a file has but close()."""

    def __init__(self, *items: Any) -> None:
        super().__init__()
        self._items = Items(*items)
        self.sizes: list[int] = []

    def read(self, size: int) -> Any:
        self.sizes.append(size)
        return next(self._items, b"")


class Fetched(Closable):
    """What `requests` returns, as far as a body is concerned."""

    def __init__(self, *items: object) -> None:
        super().__init__()
        self._items = items
        self.iterators: list[Items] = []

    def __iter__(self) -> Iterator[object]:
        raise AssertionError("its own steps are of 128 bytes")

    def iter_content(self, chunk_size: int) -> Iterator[object]:
        assert chunk_size == READ_SIZE
        self.iterators.append(Items(*self._items))
        return iter(self.iterators[-1])


class Letters:
    """A class whose __iter__ is a generator."""

    def __iter__(self) -> Iterator[str]:
        yield from "abc"


class Sequence:
    """The oldest way of being iterable."""

    def __getitem__(self, index: int) -> str:
        return "abc"[index]


# What is accepted.


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: "Straße", ["Straße"], id="str"),
        pytest.param(lambda: b"\xff\x00", [b"\xff\x00"], id="bytes"),
        pytest.param(lambda: bytearray(b"ab"), ["ab"], id="bytearray"),
        pytest.param(lambda: memoryview(b"ab"), ["ab"], id="memoryview"),
        pytest.param(lambda: memoryview(b"a-b-")[::2], ["ab"], id="memoryview with steps"),
        pytest.param(lambda: memoryview(b"abcd").cast("H"), ["abcd"], id="memoryview of numbers"),
        pytest.param(lambda: ["a", b"b", bytearray(b"c"), memoryview(b"d")], "abcd", id="list"),
        pytest.param(lambda: ("a", "b"), "ab", id="tuple"),
        pytest.param(lambda: collections.deque("ab"), "ab", id="deque"),
        pytest.param(lambda: map(str, range(3)), "012", id="map"),
        pytest.param(lambda: (c for c in "abc"), "abc", id="generator"),
        pytest.param(lambda: Items("a", b"b"), "ab", id="iterator with close"),
        pytest.param(Letters, "abc", id="class with a generator as __iter__"),
        pytest.param(Sequence, "abc", id="class with __getitem__"),
        pytest.param(lambda: io.BytesIO(b"ab"), ["ab"], id="bytes in memory"),
        pytest.param(lambda: io.StringIO("ä\nb"), ["ä\n", "b"], id="text in memory"),
        pytest.param(lambda: File(b"a", "b"), "ab", id="object with read"),
        pytest.param(lambda: Fetched(b"a", b"b"), "ab", id="response object with iter_content"),
        pytest.param(lambda: "", [], id="empty str"),
        pytest.param(list, [], id="empty list"),
        pytest.param(io.BytesIO, [], id="empty file"),
    ],
)
def test_a_body_becomes_bytes_item_by_item(
    make: Callable[[], object], expected: Iterable[str | bytes]
) -> None:
    assert read(make()) == [c.encode() if isinstance(c, str) else c for c in expected]


def test_every_chunk_is_bytes_itself_as_wsgi_demands() -> None:
    items = ["a", b"b", bytearray(b"c"), memoryview(b"d")]
    assert [type(chunk) for chunk in read(items)] == [bytes] * 4


def test_empty_chunks_are_left_out_and_end_nothing() -> None:
    empty: list[object] = ["", b"", bytearray(), memoryview(b"")]
    assert read([*empty, "a", *empty, "b", *empty]) == [b"a", b"b"]


def test_text_is_utf_8() -> None:
    assert encode("ä€😀") == "ä€😀".encode()


@pytest.mark.parametrize("mode", ["rb", "r+b", "r"])
def test_an_open_file_gives_its_content_and_is_closed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    path.write_bytes("ä line\nand another\n".encode() * 10_000)
    file = open(path, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115
    assert b"".join(read(file)) == path.read_bytes()
    assert file.closed


@pytest.mark.parametrize("buffering", [0, -1], ids=["unbuffered", "buffered"])
def test_a_binary_file_is_read_in_blocks_from_where_it_stands(
    tmp_path: Path, buffering: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * READ_SIZE))
    file = open(path, "rb", buffering=buffering)  # noqa: SIM115
    file.seek(100)
    chunks = read(file)
    assert b"".join(chunks) == path.read_bytes()[100:]
    assert max(map(len, chunks)) <= READ_SIZE


def test_a_file_that_unpacks_gives_what_it_unpacks(tmp_path: Path) -> None:
    content = os.urandom(1000) * 200
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(content))
    assert b"".join(read(gzip.open(path))) == content  # noqa: SIM115


def test_a_memory_map_is_read_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (READ_SIZE + 1))
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert b"".join(read(mapped)) == path.read_bytes()
    assert mapped.closed


def test_a_file_is_asked_for_no_more_than_a_block_at_a_time() -> None:
    file = File(b"a", b"b")
    assert read(file) == [b"a", b"b"]
    assert set(file.sizes) == {READ_SIZE}


# What is live: it gives what has come, without waiting for more.


class Upstream(BaseHTTPRequestHandler):
    """Sends `first`, and when `go` is set, `second`."""

    protocol_version = "HTTP/1.1"
    go: threading.Event

    def do_GET(self) -> None:
        chunked = self.path == "/chunked"
        self.send_response(200)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", "11")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n" if chunked else b"first")
        self.go.wait(60)
        self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n" if chunked else b"second")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """The URL of an HTTP server, which closes each connection after its answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        server.daemon_threads = False  # so that closing the server waits for its connections
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    go = threading.Event()
    monkeypatch.setattr(Upstream, "go", go, raising=False)
    yield go
    go.set()


Live = AbstractContextManager[tuple[Any, Callable[[], object]]]
"""A body that has given `first`, and what makes it give `second` and end."""


@contextmanager
def program(**options: Any) -> Iterator[tuple[Any, Callable[[], object]]]:
    with subprocess.Popen(SH, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        assert process.stdin is not None
        yield process.stdout, process.stdin.close


@contextmanager
def sockets() -> Iterator[tuple[Any, Callable[[], object]]]:
    ours, theirs = socket.socketpair()

    def finish() -> None:
        theirs.sendall(b"second")
        theirs.close()

    with ours, theirs:
        theirs.sendall(b"first")
        yield ours.makefile("rb"), finish


@contextmanager
def served(body: Any, go: threading.Event) -> Iterator[tuple[Any, Callable[[], object]]]:
    yield body, go.set


def fetched(url: str) -> requests.Response:
    with requests.Session() as session:
        return session.get(url, stream=True, timeout=60)


LIVE: dict[str, Callable[[str, threading.Event], Live]] = {
    "pipe of a program": lambda *_: program(),
    "unbuffered pipe of a program": lambda *_: program(bufsize=0),
    "socket's file": lambda *_: sockets(),
    "urllib response": lambda url, go: served(urllib.request.urlopen(f"{url}/length"), go),
    "urllib response in chunks": lambda url, go: served(
        urllib.request.urlopen(f"{url}/chunked"), go
    ),
    "requests response in chunks": lambda url, go: served(fetched(f"{url}/chunked"), go),
}


@pytest.mark.timeout(20)  # a body that waits for more never comes back
@pytest.mark.parametrize("live", LIVE.values(), ids=LIVE)
def test_a_live_body_gives_what_has_come_without_waiting_for_more(
    live: Callable[[str, threading.Event], Live], upstream: str, go: threading.Event
) -> None:
    with live(upstream, go) as (body, finish), closing(Chunks(body)) as chunks:
        assert next(chunks) == b"first"
        finish()
        assert list(chunks) == [b"second"]


@pytest.mark.timeout(20)
def test_a_text_pipe_gives_each_line_without_waiting_for_the_next() -> None:
    command = ("sh", "-c", "echo first; read go; echo second")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        with closing(Chunks(process.stdout)) as chunks:
            assert next(chunks) == b"first\n"
            process.stdin.close()
            assert list(chunks) == [b"second\n"]


@pytest.mark.parametrize("path", ["/length", "/chunked"])
def test_a_requests_response_is_sent_whole_and_closed(
    upstream: str, path: str, go: threading.Event
) -> None:
    go.set()
    response = fetched(upstream + path)
    assert b"".join(read(response)) == b"firstsecond"
    assert response.raw.closed


@pytest.mark.timeout(20)
def test_a_requests_response_that_is_left_gives_its_connection_back(
    upstream: str, go: threading.Event
) -> None:
    response = fetched(f"{upstream}/chunked")
    chunks = Chunks(response)
    assert next(chunks) == b"first"
    assert not go.is_set()
    chunks.close()
    assert response.raw.closed


def test_a_urllib_response_is_closed(upstream: str, go: threading.Event) -> None:
    go.set()
    response = urllib.request.urlopen(f"{upstream}/length")
    assert b"".join(read(response)) == b"firstsecond"
    assert response.closed


# What is refused, and what to use instead.


async def agenerator() -> AsyncIterator[str]:
    yield "never"


async def coroutine() -> str:
    return "never"


def generator() -> Iterator[str]:
    yield "never"


class Asynchronous:
    def __aiter__(self) -> AsyncIterator[str]:
        raise AssertionError("never")


class AsynchronousFile(Asynchronous):
    async def read(self, size: int = -1) -> bytes:
        raise AssertionError("never", size)


class Holder:
    def generate(self) -> Iterator[str]:
        yield "never"


REFUSED = [
    pytest.param({"a": 1}, "dict: use ctx.json(…)", id="dict"),
    pytest.param({}, "dict: use ctx.json(…)", id="empty dict"),
    pytest.param(types.MappingProxyType({}), "mappingproxy: use ctx.json(…)", id="mapping"),
    pytest.param(collections.OrderedDict(), "OrderedDict: use ctx.json(…)", id="kind of dict"),
    pytest.param(None, "NoneType: for an empty response, use b\"\" or Response(status", id="None"),
    pytest.param(5, "int: use str, bytes, an iterable of these, or a file object", id="int"),
    pytest.param(True, "bool: use str, bytes,", id="bool"),
    pytest.param(0.5, "float: use str, bytes,", id="float"),
    pytest.param(object(), "object: use str, bytes,", id="object"),
    pytest.param(list, "type: use str, bytes,", id="class"),
    pytest.param(agenerator(), "async_generator: this framework is synchronous: use a generator, "
                 "def and not async def", id="async generator"),
    pytest.param(Asynchronous(), "Asynchronous: this framework is synchronous: use a generator",
                 id="async iterable"),
    pytest.param(AsynchronousFile(), "AsynchronousFile: this framework is synchronous",
                 id="asynchronous file"),
    pytest.param(generator, "function: call it", id="generator function that was not called"),
    pytest.param(agenerator, "function: call it", id="async one that was not called"),
    pytest.param(Holder().generate, "method: call it", id="generator method not called"),
    pytest.param(Event("x"), 'Event: give the stream the content type "text/event-stream", '
                 "or use ctx.sse(…)", id="bare Event"),
    pytest.param(httpx.Response(200), "Response: use its iter_bytes()", id="httpx response"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "instead"), REFUSED)
def test_a_body_that_cannot_be_streamed_is_refused_by_what_to_use_instead(
    body: object, instead: str
) -> None:
    with pytest.raises(BodyError) as refusal:
        Chunks(body)
    assert str(refusal.value).startswith(f"a body cannot be {instead}")


def test_a_coroutine_is_refused() -> None:
    with closing(coroutine()) as body, pytest.raises(BodyError, match="coroutine: this framework"):
        Chunks(body)


@pytest.mark.parametrize(
    ("mode", "buffering"), [("wb", -1), ("wb", 0), ("ab", -1), ("xb", -1), ("w", -1)]
)
def test_a_file_open_for_writing_is_refused(tmp_path: Path, mode: str, buffering: int) -> None:
    with (
        open(tmp_path / "file", mode, buffering) as file,
        pytest.raises(BodyError, match="open for writing: open it for reading, in mode 'rb'"),
    ):
        Chunks(file)


def test_a_refusal_is_a_type_error_and_one_of_ours() -> None:
    assert issubclass(BodyError, TypeError)
    assert issubclass(BodyError, VentoError)


@pytest.mark.parametrize(
    ("item", "instead"),
    [
        pytest.param({"a": 1}, "dict: use ctx.json(…) for one value, json.dumps", id="dict"),
        pytest.param(None, "NoneType", id="None"),
        pytest.param(5, "int: use str, bytes", id="int"),
        pytest.param(["a"], "list: use str, bytes", id="list"),
        pytest.param(Event("x"), "Event: give the stream the content type", id="Event"),
        pytest.param(generator, "function: call it", id="generator function"),
    ],
)
def test_an_item_that_cannot_become_bytes_is_refused_when_its_turn_comes(
    item: object, instead: str
) -> None:
    chunks = Chunks(Items("first", item, "third"))
    assert next(chunks) == b"first"
    with pytest.raises(BodyError) as refusal:
        next(chunks)
    assert str(refusal.value).startswith(f"an item of a body cannot be {instead}")


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(BodyError, match="not Unicode text"):
        read("\ud83d")


def test_a_file_in_non_blocking_mode_is_refused_instead_of_taken_for_ended() -> None:
    with pytest.raises(BodyError, match="blocking mode"):
        read(File(b"a", None, b"b"))


# Nothing is taken before the first next().


def test_nothing_of_a_body_is_taken_before_the_first_next() -> None:
    bodies: list[Any] = [Collection("a"), Fetched(b"a"), File(b"a"), (c for c in "a"), Items("a")]
    collection, fetched, file, generator, items = bodies
    for body in bodies:
        Chunks(body)
    assert collection.iterators == []
    assert fetched.iterators == []
    assert file.sizes == []
    assert inspect.getgeneratorstate(generator) == inspect.GEN_CREATED
    assert next(items) == "a"


def test_no_item_is_taken_before_it_is_asked_for() -> None:
    taken = []

    def items() -> Iterator[str]:
        for item in "abc":
            taken.append(item)
            yield item

    chunks = Chunks(items())
    for number, _ in enumerate(chunks, 1):
        assert len(taken) == number


# Who is closed, and how often.


def to_the_end(chunks: Chunks) -> None:
    assert list(chunks) == [b"a", b"b"]


def left_in_the_middle(chunks: Chunks) -> None:
    assert next(chunks) == b"a"


def never_started(_: Chunks) -> None:
    pass


ENDINGS = pytest.mark.parametrize("ending", [to_the_end, left_in_the_middle, never_started])


@ENDINGS
@pytest.mark.parametrize("kind", [Items, Collection, File, Fetched])
def test_a_body_and_its_iterator_are_closed_once(
    kind: Callable[..., Any], ending: Callable[[Chunks], None]
) -> None:
    body = kind(b"a", b"b")
    chunks = Chunks(body)
    ending(chunks)
    assert body.closed == 0
    chunks.close()
    chunks.close()
    assert body.closed == 1
    iterators = getattr(body, "iterators", [])
    assert len(iterators) == (ending is not never_started and hasattr(body, "iterators"))
    assert [iterator.closed for iterator in iterators] == [1] * len(iterators)


@pytest.mark.parametrize("kind", [Items, Collection, File, Fetched])
@pytest.mark.parametrize("bad", [OSError("the source broke"), 5], ids=["raises", "bad item"])
def test_a_body_that_fails_is_closed_once(kind: Callable[..., Any], bad: object) -> None:
    body = kind(b"a", bad, b"b")
    chunks = Chunks(body)
    assert next(chunks) == b"a"
    with pytest.raises((OSError, BodyError)):
        next(chunks)
    chunks.close()
    chunks.close()
    assert body.closed == 1
    assert [iterator.closed for iterator in getattr(body, "iterators", [])] in ([], [1])


@ENDINGS
def test_a_generators_finally_runs_once_if_it_was_started(
    ending: Callable[[Chunks], None],
) -> None:
    ran = []

    def source() -> Generator[str, None, None]:
        try:
            yield "a"
            yield "b"
        finally:
            ran.append(True)

    body = source()
    with closing(Chunks(body)) as chunks:
        ending(chunks)
    assert inspect.getgeneratorstate(body) == inspect.GEN_CLOSED
    assert ran == ([] if ending is never_started else [True])


@ENDINGS
def test_the_generator_behind_an_iterable_is_closed(ending: Callable[[Chunks], None]) -> None:
    class Source:
        def __init__(self) -> None:
            # kept here, so that only close() can end them, not the loss of the last reference
            self.generators: list[Generator[str, None, None]] = []

        def __iter__(self) -> Iterator[str]:
            self.generators.append(c for c in "ab")
            return self.generators[-1]

    body = Source()
    with closing(Chunks(body)) as chunks:
        ending(chunks)
    assert len(body.generators) == (ending is not never_started)
    assert all(inspect.getgeneratorstate(g) == inspect.GEN_CLOSED for g in body.generators)


@pytest.mark.parametrize("kind", [Items, Collection, File, Fetched])
@pytest.mark.parametrize("start", [True, False], ids=["started", "not started"])
def test_a_closed_body_gives_nothing_more(kind: Callable[..., Any], start: bool) -> None:
    chunks = Chunks(kind(b"a", b"b"))
    if start:
        next(chunks)
    chunks.close()
    assert list(chunks) == []


def test_a_body_is_closed_even_if_closing_its_iterator_fails() -> None:
    class Failing(Collection):
        def __iter__(self) -> Iterator[object]:
            with ExitStack() as stack:
                stack.callback(lambda: 1 / 0)
                yield from self._items

    body = Failing("a", "b")
    chunks = Chunks(body)
    next(chunks)
    with pytest.raises(ZeroDivisionError):
        chunks.close()
    assert body.closed == 1


def test_a_close_that_fails_says_so_once() -> None:
    class Failing(Items):
        def close(self) -> None:
            super().close()
            raise OSError("the disk is gone")

    body = Failing("a")
    chunks = Chunks(body)
    with pytest.raises(OSError, match="the disk is gone"):
        chunks.close()
    chunks.close()
    assert body.closed == 1


def test_a_refused_body_is_not_closed_for_its_owner() -> None:
    class Refused(dict[str, str], Closable):
        closed = 0

    body = Refused()
    with pytest.raises(BodyError):
        Chunks(body)
    assert body.closed == 0
