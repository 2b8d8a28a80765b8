"""The clock asks all its members, and stops when there are none; a watch tells who has left."""

import logging
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gevent
import pytest

from vento_wsgi.streaming import ticker as module
from vento_wsgi.streaming.disconnect import DisconnectWatcher
from vento_wsgi.streaming.ticker import LoopTicker, Ticker, process_ticker


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK", 0.002)
    monkeypatch.setattr(module, "BEAT", 0.002)


@pytest.fixture(params=[Ticker, LoopTicker])
def ticker(request: pytest.FixtureRequest) -> Iterator[Ticker]:
    ticker: Ticker = request.param()
    yield ticker
    ticker.members.clear()
    ticker.suspects.clear()
    until(lambda: not ticker._ticking and not ticker._beating)


@pytest.fixture
def runs(ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The intervals of the timers or threads that run now."""
    runs: list[float] = []
    run = ticker._run

    def counted(interval: float, step: Callable[[], bool]) -> None:
        runs.append(interval)

        def counted_step() -> bool:
            goes_on = step()
            if not goes_on:
                runs.remove(interval)
            return goes_on

        run(interval, counted_step)

    monkeypatch.setattr(ticker, "_run", counted)
    monkeypatch.setattr(module, "BEAT", 0.003)  # to tell it from a tick
    yield runs
    ticker.members.clear()
    ticker.suspects.clear()
    until(lambda: runs == [])


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition()`, with the loop going on."""
    with gevent.Timeout(60):
        while not condition():
            gevent.sleep(0.001)


class Member:
    """Counts how often it is asked, and may then do something."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.asked = 0
        self._then = then

    def tick(self, now: float) -> None:
        assert now > 0
        self.asked += 1
        self._then()

    def check(self) -> None:
        """As a watch is asked."""
        self.tick(1.0)


# The clock.


def test_each_member_is_asked_at_every_tick(ticker: Ticker) -> None:
    members = [Member() for _ in range(3)]
    for member in members:
        ticker.add(member)
    until(lambda: min(member.asked for member in members) >= 3)


def test_a_member_that_has_gone_is_asked_no_more(ticker: Ticker) -> None:
    gone, stays = Member(), Member()
    ticker.add(gone)
    ticker.add(stays)
    until(lambda: gone.asked > 0)
    ticker.members.discard(gone)
    before = stays.asked
    until(lambda: stays.asked > before + 1)  # a tick may have been on its way
    asked, before = gone.asked, stays.asked
    until(lambda: stays.asked > before + 2)
    assert gone.asked == asked


def test_a_clock_runs_once_however_many_members_it_has(ticker: Ticker, runs: list[float]) -> None:
    for _ in range(5):
        ticker.add(Member())
    assert runs == [module.TICK]


def test_a_clock_without_members_stops_and_starts_again(ticker: Ticker, runs: list[float]) -> None:
    for _ in range(2):
        member = Member()
        ticker.add(member)
        until(lambda: member.asked > 0)  # noqa: B023
        ticker.members.clear()
        until(lambda: runs == [])


def test_a_member_that_leaves_within_its_tick_can_be_the_last(
    ticker: Ticker, runs: list[float]
) -> None:
    member = Member(lambda: ticker.members.discard(member))
    ticker.add(member)
    until(lambda: member.asked > 0 and runs == [])
    assert member.asked == 1


def test_a_member_that_comes_while_the_clock_is_about_to_stop_is_asked() -> None:
    class Members(set[Any]):
        """When it is first found empty, another member comes, as far as it is let."""

        def __len__(self) -> int:
            found = super().__len__()
            if not found and not adding:
                adding.append(threading.Thread(target=ticker.add, args=(late,)))
                adding[0].start()
                adding[0].join(0.05)
            return found

    adding: list[threading.Thread] = []
    late, ticker = Member(), Ticker()
    ticker.members = Members()
    ticker.add(Member(ticker.members.clear))
    until(lambda: late.asked > 0)
    ticker.members.clear()
    adding[0].join()


def test_a_member_that_fails_is_logged_and_the_others_are_asked(
    ticker: Ticker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("of one member")

    members = [Member(fail), *(Member() for _ in range(5)), Member(fail)]
    with caplog.at_level(logging.ERROR):
        for member in members:
            ticker.add(member)
            suspect: Any = member
            ticker.suspect(suspect)
        until(lambda: min(member.asked for member in members) >= 6)
        ticker.members.clear()
        ticker.suspects.clear()
    assert "of one member" in caplog.text


def test_suspects_that_come_and_go_share_one_timer(ticker: Ticker, runs: list[float]) -> None:
    for _ in range(100):
        suspect: Any = Member()
        ticker.suspect(suspect)
        ticker.suspects.discard(suspect)
    last: Any = Member()
    ticker.suspect(last)
    assert runs == [module.BEAT]
    until(lambda: last.asked >= 2)
    assert runs == [module.BEAT]
    ticker.suspects.discard(last)
    until(lambda: runs == [])
    ticker.suspect(last)
    before = last.asked
    until(lambda: last.asked > before)


def test_a_clock_does_not_keep_the_loop_going() -> None:
    ticker = LoopTicker()
    ticker.add(Member())
    assert gevent.wait(timeout=60) is True
    ticker.members.clear()


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_clock", None)


FORKS = """
import os, sys
from vento_wsgi.streaming.ticker import process_ticker

cooperative = sys.argv[1] == "True"
first = process_ticker(cooperative=cooperative)
assert process_ticker(cooperative=cooperative) is first
first.members.add(None)
child = os.fork()
if child == 0:
    second = process_ticker(cooperative=cooperative)
    os._exit(0 if second is not first and not second.members else 1)
assert os.waitpid(child, 0)[1] == 0
assert process_ticker(cooperative=cooperative) is first
"""


@pytest.mark.parametrize("cooperative", [False, True])
def test_a_process_has_one_clock_and_its_child_another(cooperative: bool) -> None:
    subprocess.run([sys.executable, "-c", FORKS, str(cooperative)], check=True)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("cooperative", [False, True])
def test_a_clock_is_of_the_kind_that_was_asked_for(cooperative: bool) -> None:
    assert isinstance(process_ticker(cooperative=cooperative), LoopTicker) is cooperative


def test_importing_the_package_starts_nothing() -> None:
    lines = (
        "import sys, threading",
        "import vento_wsgi, vento_wsgi.streaming.stream",
        "from vento_wsgi.streaming import ticker",
        "print(threading.active_count(), ticker._clock, 'gevent' in sys.modules)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["1", "None", "False"], done.stderr


# The watch.


class Told:
    """A server's end of a connection that is watched, and what the watch has told."""

    def __init__(self, ticker: Ticker) -> None:
        self.ticker = ticker
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.sock, _ = listener.accept()
        self.said: list[str] = []
        self.watch = DisconnectWatcher(
            self.sock, ticker, lambda: self.said.append("left"), lambda: self.said.append("probe")
        )

    def says(self, *expected: str) -> None:
        """Wait until it has said that, and then some beats more."""
        until(lambda: len(self.said) >= len(expected))
        after: Any = Member()
        self.ticker.suspect(after)
        until(lambda: after.asked >= 3)
        self.ticker.suspects.discard(after)
        assert self.said == [*expected]

    def is_suspect(self) -> bool:
        return self.watch in self.ticker.suspects

    def close(self) -> None:
        self.watch.close()
        self.client.close()
        self.sock.close()


@pytest.fixture(params=["linux", "macos"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    if request.param == "macos":
        monkeypatch.delattr(select, "POLLRDHUP")
    ticker = LoopTicker()
    with closing(Told(ticker)) as told:
        yield told
    ticker.suspects.clear()
    until(lambda: not ticker._beating)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_nothing_is_told_of_a_client_that_is_there(told: Told) -> None:
    told.says()
    assert not told.is_suspect()


def test_a_client_that_closes_is_probed_once_and_has_left_when_it_answers(told: Told) -> None:
    told.client.close()
    told.says("probe")
    assert told.is_suspect()
    told.sock.send(b"are you there?")
    told.says("probe", "left")
    assert not told.is_suspect()


def test_a_client_that_has_no_more_to_say_has_not_left(told: Told) -> None:
    told.client.shutdown(socket.SHUT_WR)
    told.says("probe")
    told.sock.send(b"are you there?")
    assert told.client.recv(100) == b"are you there?"
    told.says("probe")
    assert told.is_suspect()


def test_a_client_that_resets_has_left(told: Told) -> None:
    reset(told.client)
    told.says("left")
    assert not told.is_suspect()


def test_bytes_that_nobody_reads_are_no_departure_and_hide_none(told: Told) -> None:
    told.client.send(b"another request")
    until(told.is_suspect)
    told.says()
    told.client.close()
    if not hasattr(select, "POLLRDHUP"):
        told.says()
        assert told.sock.recv(100) == b"another request"  # then a reader sees it
    told.says("probe")
    told.sock.send(b"are you there?")
    told.says("probe", "left")


def test_bytes_that_nobody_reads_hide_no_reset(told: Told) -> None:
    told.client.send(b"another request")
    until(told.is_suspect)
    reset(told.client)
    told.says("left")


def test_a_watch_that_is_closed_tells_nothing(told: Told) -> None:
    told.client.send(b"another request")
    until(told.is_suspect)
    told.watch.close()
    told.watch.close()
    assert not told.is_suspect()
    reset(told.client)
    until(lambda: bool(select.select([told.sock], [], [], 0)[0]))
    told.watch.check()
    told.says()


def test_a_watch_can_be_closed_by_what_it_tells() -> None:
    ticker = LoopTicker()
    with closing(Told(ticker)) as told:
        told.watch.close()
        watch = DisconnectWatcher(told.sock, ticker, lambda: None, lambda: watch.close())
        told.client.close()
        until(lambda: watch._closed)
        assert watch not in ticker.suspects
    until(lambda: not ticker._beating)
