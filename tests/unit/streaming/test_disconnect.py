"""A watcher tells when the client of a connection has left."""

import select
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from support.in_process import until
from support.servers import reset_on_close

from vento_wsgi.streaming import ticker as module
from vento_wsgi.streaming.disconnect import DisconnectWatcher
from vento_wsgi.streaming.ticker import LoopTicker, Ticker


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.002)


class Asked:
    """Counts how often the ticker asks it, as it asks a watcher."""

    def __init__(self) -> None:
        self.times = 0

    def check(self) -> None:
        self.times += 1


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
        after: Any = Asked()
        self.ticker.suspect(after)
        until(lambda: after.times >= 3)
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
    reset_on_close(sock)
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
