"""The ticker asks all its members, and stops when there are none."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from support.in_process import until

from vento_wsgi.streaming import ticker as module
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
    monkeypatch.setattr(module, "_ticker", None)


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
        "print(threading.active_count(), ticker._ticker, 'gevent' in sys.modules)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["1", "None", "False"], done.stderr
