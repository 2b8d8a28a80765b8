"""How a StreamWorker stops: event streams end, all other responses may finish.

Each way of stopping a worker happens once, with clients of every kind. The tests then look at what
the clients have seen. gunicorn's graceful_timeout and keepalive are longer than
any wait here, so that nothing that is held until then goes unnoticed.
"""

import json
import math
import os
import random
import re
import resource
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.closing import Closing
from support.gates import Gate
from support.servers import OPENING, Running, connect, eventually, serve

from vento_wsgi.server.drain import STEP, Drain

MB = 1024 * 1024
WINDOW = 1.0  # seconds
GRACE = 30  # seconds
PATIENCE = 20.0  # seconds: well below GRACE
FIRST = b"data: first\n\n"
PART = b"GET /hello HTTP/1.1\r\nHo"
DOWNLOAD = 8 * MB  # more than the kernel keeps for a client that does not read


class Client:
    """A connection, and all that has come on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = bytearray()
        self.ended = False
        self.reset = False

    def ask(self, path: str) -> "Client":
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        return self

    def has(self, data: bytes) -> bool:
        return data in self.data

    def receive(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            self.ended = self.reset = True
            return
        self.data += data
        self.ended = not data

    @property
    def body(self) -> bytes:
        """The body of a response that came whole, by its own framing. Fails on any other."""
        head, _, body = bytes(self.data).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), bytes(self.data[:200])
        if length := re.search(rb"Content-Length: (\d+)", head):
            assert len(body) == int(length[1])
            return body
        chunks, start = [], 0
        while True:
            end = body.index(b"\r\n", start)
            size = int(body[start:end], 16)
            chunks.append(body[end + 2 : end + 2 + size])
            start = end + 2 + size + 2
            if not size:
                assert start == len(body), "there is something behind the final chunk"
                return b"".join(chunks)


class Crowd(Closing):
    """Clients of one server, and the one loop that reads for those that listen."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._selector = selectors.DefaultSelector()
        self._stack = ExitStack()
        self._stack.callback(self._selector.close)

    def come(self, *, listens: bool = True, buffer: int | None = None) -> Client:
        sock = self._stack.enter_context(socket.socket())
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(PATIENCE)
        sock.connect((self._running.host, self._running.port))
        client = Client(sock)
        if listens:
            self.listen(client)
        return client

    def listen(self, client: Client) -> None:
        self._selector.register(client.sock, selectors.EVENT_READ, client)

    def read_until(self, condition: Callable[[], bool]) -> None:
        def read() -> bool:
            for key, _ in self._selector.select(0):
                client: Client = key.data
                client.receive()
                if client.ended:
                    self._selector.unregister(client.sock)
            return condition()

        eventually(read, PATIENCE, self._running.log)

    def close(self) -> None:
        self._stack.close()


@dataclass
class Seen:
    """What was to be seen of a worker that stopped."""

    how: str
    old: int = 0
    streams: list[Client] = field(default_factory=list)
    files: list[Client] = field(default_factory=list)
    exports: list[Client] = field(default_factory=list)
    idle: list[Client] = field(default_factory=list)
    fresh: list[Client] = field(default_factory=list)
    begun: list[Client] = field(default_factory=list)
    one: dict[str, Client] = field(default_factory=dict)
    answered_by: list[int] = field(default_factory=list)
    under_way: bool = False
    log: str = ""
    code: int | None = None


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("drain") / "file.bin"
    file.write_bytes(blocks())
    return file


def blocks() -> bytes:
    return b"".join(number.to_bytes(8, "big") * 128 for number in range(DOWNLOAD // 1024))


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """Enough of them for the clients here and for the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module", params=["HUP", "TERM", "max_requests"])
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, download: Path
) -> Iterator[Seen]:
    seen = Seen(request.param)
    options = [f"--graceful-timeout={GRACE}", "--keep-alive=60", "--access-logfile=/dev/null"]
    if seen.how == "max_requests":
        options.append("--max-requests=150")
    with (
        serve(
            "gunicorn-StreamWorker",
            "apps.engine:app",
            tmp=tmp_path_factory.mktemp("drain"),
            env={"FILE": str(download), "VENTO_DRAIN_WINDOW": str(WINDOW)},
            options=options,
        ) as running,
        Crowd(running) as crowd,
        Gate() as gate,
    ):
        seen.old = pid(running)
        go_through(seen, running, crowd, gate)
        seen.log = running.log()
        yield seen


def go_through(seen: Seen, running: Running, crowd: Crowd, gate: Gate) -> None:
    many, few = (500, 10) if seen.how == "HUP" else (50, 2)
    events = "type=text/event-stream&name=crowd"
    seen.streams = [crowd.come().ask(f"/waits/event?{events}") for _ in range(many)]
    export = f"/endless?name=export{{}}&size=1024&most={DOWNLOAD}"
    for number in range(few):
        seen.files.append(crowd.come(listens=False, buffer=65536).ask("/file"))
        seen.exports.append(crowd.come(listens=False, buffer=65536).ask(export.format(number)))
    seen.idle = [crowd.come().ask("/hello") for _ in range(5)]
    seen.fresh = [crowd.come() for _ in range(3)]
    seen.begun = [crowd.come() for _ in range(3)]
    stalled = f"/endless?size=1024&send_timeout=1&{events}"
    seen.one = {
        "halves": crowd.come().ask(f"/halves?gate={gate.port}&{events}"),
        "polls": crowd.come().ask("/until-drained"),
        "stalled": crowd.come(listens=False, buffer=65536).ask(stalled),
    }
    assert gate.wanted()
    gate.next()
    assert gate.wanted()
    with Gate() as other_gate:
        seen.one["late"] = crowd.come().ask(f"/late?gate={other_gate.port}&{events}")
        assert other_gate.wanted()
        crowd.read_until(
            lambda: (
                all(stream.has(FIRST) for stream in seen.streams)
                and all(client.has(b"hello") for client in seen.idle)
                and seen.one["halves"].has(b"data: one")
                and seen.one["polls"].has(b"False")
            )
        )
        seen.begun[0].sock.sendall(PART)
        seen.begun[1].sock.sendall(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n" + PART)
        seen.begun[2].ask("/hello")
        crowd.read_until(partial(seen.begun[2].has, b"hello"))
        seen.begun[2].sock.sendall(PART)
        crowd.read_until(partial(seen.begun[1].has, b"hello"))
        for client in [*seen.files, *seen.exports]:
            client.receive()

        with meanwhile(seen, running):
            tell(seen, running)
            crowd.read_until(lambda: seen.one["polls"].has(b"True"))
            other_gate.end()
            for client in seen.begun:
                client.sock.sendall(b"st: test\r\n\r\n")
            listening = [*seen.streams, *seen.idle, *seen.fresh, *seen.begun]
            listening += [seen.one[name] for name in ("halves", "polls", "late")]
            crowd.read_until(lambda: all(client.ended for client in listening))
            seen.under_way = alive(seen.old)
            downloads = [*seen.files, *seen.exports]
            for client in downloads:
                crowd.listen(client)
            crowd.read_until(lambda: all(client.ended for client in downloads))
            eventually(lambda: not alive(seen.old), PATIENCE, running.log)
            if seen.how != "TERM":
                eventually(lambda: set(seen.answered_by) > {seen.old})
    crowd.listen(seen.one["stalled"])
    crowd.read_until(lambda: seen.one["stalled"].ended)
    if seen.how == "TERM":
        seen.code = running.process.wait(PATIENCE)


def tell(seen: Seen, running: Running) -> None:
    """Have the worker stop."""
    if seen.how == "max_requests":
        # the requests of meanwhile() are enough
        eventually(lambda: "Autorestarting" in running.log(), PATIENCE)
    else:
        os.kill(running.pid, signal.Signals[f"SIG{seen.how}"])


def pid(running: Running) -> int:
    with connect(running, PATIENCE) as raw:
        raw.request("GET", "/pid", "Connection: close")
        return int(json.loads(raw.read_all().data))


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@contextmanager
def meanwhile(seen: Seen, running: Running) -> Iterator[None]:
    """Others come, one after the other, unless the whole server stops."""
    done = threading.Event()

    def come() -> None:
        seen.answered_by.append(seen.old)
        while not done.is_set() and seen.how != "TERM":
            seen.answered_by.append(pid(running))

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(come)
        try:
            yield
        finally:
            done.set()
        others.result()


def retry(client: Client) -> int:
    """The reconnection time that ends an event stream."""
    found = re.fullmatch(rb".*\n\nretry: (\d+)\n", client.body, re.DOTALL)
    assert found, client.body[-200:]
    return int(found[1])


def test_every_event_stream_ends_cleanly_and_is_asked_to_come_back(seen: Seen) -> None:
    for client in seen.streams:
        assert client.body.startswith(OPENING + FIRST + b"retry: ")
        assert 1000 <= retry(client) <= 1000 + WINDOW * 1000


def test_the_clients_do_not_come_back_all_at_once(seen: Seen) -> None:
    asked = [retry(client) for client in seen.streams]
    assert max(asked) - min(asked) > WINDOW * 1000 / 2
    line = r"^([\d.]+) vento_wsgi.access: GET /waits/<how> draining: "
    ends = [float(at) for at in re.findall(line, seen.log, re.MULTILINE)]
    assert len(ends) == len(seen.streams)
    assert max(ends) - min(ends) > WINDOW / 2


def test_the_access_line_counts_the_last_event(seen: Seen) -> None:
    told = re.findall(r"access: GET /waits/<how> draining: (\d+) bytes, 2 pieces", seen.log)
    assert sorted(map(int, told)) == sorted(len(client.body) for client in seen.streams)


def test_every_download_finishes(seen: Seen) -> None:
    assert seen.under_way
    whole = blocks()
    for client in [*seen.files, *seen.exports]:
        assert client.body == whole, "not the right bytes"


def test_others_are_answered_meanwhile_and_then_by_a_new_worker(seen: Seen) -> None:
    if seen.how == "TERM":
        assert set(seen.answered_by) == {seen.old}
        assert seen.code == 0
    else:
        assert seen.answered_by[-1] != seen.old
        assert len(set(seen.answered_by)) == 2 or seen.how == "max_requests"


def test_a_connection_that_waits_for_a_request_is_closed(seen: Seen) -> None:
    assert [client.body for client in seen.idle] == [b"hello"] * len(seen.idle)
    assert [bytes(client.data) for client in seen.fresh] == [b""] * len(seen.fresh)
    assert not any(client.reset for client in [*seen.idle, *seen.fresh])


def test_a_request_of_which_a_part_has_come_is_answered(seen: Seen) -> None:
    first, *others = (bytes(client.data) for client in seen.begun)
    assert first.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert [other.count(b"HTTP/1.1 200 OK\r\n") for other in others] == [2] * len(others)
    for data in (first, *others):
        assert b"\r\nConnection: close\r\n" in data
        assert data.endswith(b"\r\n\r\nhello")


def test_nothing_is_said_within_a_half_written_block(seen: Seen) -> None:
    assert seen.one["halves"].body == OPENING + b"data: one"


def test_a_stream_that_polls_sees_that_its_worker_stops(seen: Seen) -> None:
    assert re.fullmatch(rb"(False\n)+True\n", seen.one["polls"].body)


def test_an_event_stream_that_starts_in_a_worker_that_stops_ends_too(seen: Seen) -> None:
    assert retry(seen.one["late"]) <= 1000 + WINDOW * 1000


def test_a_client_that_has_stopped_reading_does_not_hold_the_worker(seen: Seen) -> None:
    assert seen.one["stalled"].reset
    assert "GET /endless stalled: " in seen.log


def test_the_worker_is_gone_long_before_it_would_be_killed(seen: Seen) -> None:
    assert not alive(seen.old)
    assert "Worker graceful timeout" not in seen.log
    assert "Traceback" not in seen.log


def test_a_client_that_is_still_asking_at_the_end_gets_no_answer(tmp_path: Path) -> None:
    options = ["--graceful-timeout=2", "--keep-alive=60"]
    with (
        serve("gunicorn-StreamWorker", "apps.engine:app", tmp=tmp_path, options=options) as running,
        connect(running) as raw,
    ):
        raw.send(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n" + PART)  # and it is read
        assert raw.read_head().status == 200
        raw.read_all()
        old = pid(running)
        os.kill(old, signal.SIGTERM)
        assert raw.read_rest() == b""
        eventually(lambda: not alive(old), PATIENCE, running.log)
        assert "Worker graceful timeout" in running.log()
        assert "Traceback" not in running.log()


# Several workers on one socket.


@pytest.mark.parametrize("how", ["HUP", "TERM"])
def test_no_client_is_cut_more_than_once(tmp_path: Path, how: str) -> None:
    # a worker that is still starting does not hear of a signal
    settings, started = tmp_path / "settings.py", tmp_path / "started"
    started.mkdir()
    settings.write_text(
        "from pathlib import Path\n"
        "def post_worker_init(worker):\n"
        f"    Path({str(started)!r}, str(worker.pid)).touch()\n"
    )
    options = [f"-c={settings}", "--workers=3", f"--graceful-timeout={GRACE}", "--keep-alive=60"]
    events = "/waits/event?type=text/event-stream&name=crowd"
    with (
        serve(
            "gunicorn-StreamWorker",
            "apps.engine:app",
            tmp=tmp_path,
            env={"VENTO_DRAIN_WINDOW": str(WINDOW)},
            options=options,
        ) as running,
        Crowd(running) as crowd,
    ):
        clients = [crowd.come().ask(events) for _ in range(60)]
        silent = [crowd.come() for _ in range(10)]
        cuts = [0] * len(clients)
        eventually(lambda: len(list(started.iterdir())) == 3)
        old = workers(running)
        assert set(listening(running)) == {running.pid, *old}
        crowd.read_until(lambda: all(client.has(FIRST) for client in clients))

        def settled() -> bool:
            # none of those that cut listens; a worker that has not had its signal yet may
            cut = any(client.ended for client in clients)
            assert not cut or any(pid not in listening(running) for pid in stopping)
            if cut and not set(stopping) & set(listening(running)):
                for number, client in enumerate(clients):
                    if client.ended:
                        cuts[number] += 1
                        clients[number] = crowd.come().ask(events)
            return all(client.has(FIRST) for client in clients) and not any(map(alive, stopping))

        stopping = old if how == "HUP" else [server_of(clients[0], old)]
        os.kill(running.pid if how == "HUP" else stopping[0], signal.Signals[f"SIG{how}"])
        # what was accepted before is served
        for client in silent[:5]:
            client.ask("/hello")
        crowd.read_until(settled)
        crowd.read_until(lambda: all(client.has(b"hello") for client in silent[:5]))
        assert max(cuts) == 1
        assert cuts == [1] * 60 or how == "TERM"
        assert "Traceback" not in running.log()
        # nor would those that took their places, and the server would wait for them
        eventually(lambda: len(list(started.iterdir())) == 3 + len(stopping))


def tcp() -> list[list[str]]:
    """The sockets of this machine; see proc_pid_net(5)."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def listening(running: Running) -> list[int]:
    """The processes that hold the socket on which the server listens."""
    port, listens = f":{running.port:04X}", "0A"
    inodes = [each[9] for each in tcp() if each[1].endswith(port) and each[3] == listens]
    processes = {running.pid, *workers(running)}
    return [pid for pid in processes if any(holds(pid, inode) for inode in inodes)]


def server_of(client: Client, processes: list[int]) -> int:
    """The one of these processes that has accepted a client's connection."""
    ours, theirs = (
        f":{name[1]:04X}" for name in (client.sock.getsockname(), client.sock.getpeername())
    )
    (inode,) = (e[9] for e in tcp() if e[1].endswith(theirs) and e[2].endswith(ours))
    (found,) = (pid for pid in processes if holds(pid, inode))
    return found


def holds(process: int, inode: str) -> bool:
    with suppress(OSError):  # it may have ended
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if descriptor.readlink().name == f"socket:[{inode}]":
                    return True
    return False


def workers(running: Running) -> list[int]:
    return sorted(
        {int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", running.log())}
    )


# The drain itself.


class Stream:
    """Something to drain, which ends as it is told to."""

    route, start, reason, sent = "GET /", 0.0, None, 0

    def __init__(self, drain: Any) -> None:
        self.asked: list[int] = []
        self._drain = drain
        drain.add(self)

    def drain(self, retry: int) -> None:
        self.asked.append(retry)
        self._drain.discard(self)


def begun(drain: Drain, longest: float = 60) -> Callable[[], None]:
    """Begin to drain, which is the first step; what the loop calls for the others."""
    loop: Any = Mock()
    drain.begin(loop, longest)
    loop.timer.assert_called_once_with(STEP, STEP)
    ((step,), _) = loop.timer.return_value.start.call_args
    return step  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [1, 10, 89, 500, 10_000])
@pytest.mark.parametrize(
    ("window", "longest"), [(0.0, 60), (0.3, 60), (3.0, 60), (3.0, 1.5), (3.0, 0)]
)
def test_all_streams_end_within_the_window_in_equal_shares(
    number: int, window: float, longest: float
) -> None:
    drain = Drain(window)
    streams = [Stream(drain) for _ in range(number)]
    step = begun(drain, longest)
    ended = [0, number - len(drain.streams)]
    while ended[-1] < number:
        step()
        ended.append(number - len(drain.streams))
    most = round(max(min(window, longest), STEP) / STEP)
    shares = [after - before for before, after in pairwise(ended)]
    assert len(shares) <= most
    assert max(shares) == math.ceil(number / most)
    assert all(len(stream.asked) == 1 for stream in streams)
    assert all(1000 <= stream.asked[0] <= 1000 + window * 1000 for stream in streams)


def test_a_stream_that_has_ended_meanwhile_is_left_alone() -> None:
    drain: Any = Drain(2 * STEP)
    streams = [Stream(drain) for _ in range(4)]
    step = begun(drain)
    gone = next(iter(drain.streams))
    drain.discard(gone)
    step()
    assert [len(stream.asked) for stream in streams] == [int(s is not gone) for s in streams]


def test_a_stream_that_comes_late_is_sent_home_too() -> None:
    drain = Drain(1.0)
    step = begun(drain)
    late = Stream(drain)
    assert late.asked == []
    step()
    assert len(late.asked) == 1


def test_a_stream_is_asked_back_once() -> None:
    drain = Drain(0)
    stream = Stream(drain)
    draining = [drain.draining]
    step = begun(drain)
    assert [*draining, drain.draining] == [False, True]
    step()
    step()
    assert len(stream.asked) == 1


def test_the_times_to_come_back_are_drawn_over_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randint", lambda least, most: (least + most) // 2)
    drain = Drain(3.0)
    stream = Stream(drain)
    begun(drain)
    assert stream.asked == [2500]
