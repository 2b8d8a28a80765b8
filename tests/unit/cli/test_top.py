"""What top shows on the screen, and what a process remembers of streams."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from vento_wsgi.cli.terminal import width
from vento_wsgi.cli.top.screen import screen
from vento_wsgi.server.drain import KEPT, Drain
from vento_wsgi.streaming.stream import Stream


def told(at: float, **row: Any) -> dict[str, Any]:
    stream = {
        "key": "1",
        "route": "GET /",
        "client": "10.0.0.1:5",
        "forwarded": "",
        "age": 4000.0,
        "still": 0.5,
        "bytes": 0,
        "chunks": 1,
        "backlog": 0,
        "events": 0,
        "state": "waiting",
        **row,
    }
    ended = {"route": "GET /x", "reason": "stalled", "bytes": 5, "seconds": 70.0, "ago": 3.0}
    worker = {"worker": 7, "streams": 1, "rows": [stream], "ended": [ended] * 20}
    return {"master": 6, "name": "a:b", "listening": ["[::1]:80"], "at": at, "workers": [worker]}


def test_rates_are_those_between_two_looks() -> None:
    said = screen(told(12.0, bytes=10**6), told(10.0, bytes=0), 200, 50)
    assert said.startswith("a:b (6), [::1]:80, 1 worker, 1 stream, 500.0 KB/s\n")
    assert "1h06m  waiting  0.5s   1.0 MB  500.0 KB/s  -" in said
    assert "3.0s ago  7       stalled  1m10s  5 B    GET /x" in said
    new = screen(told(12.0, key="2"), told(10.0), 200, 50)
    assert " ?     -        10.0.0.1:5" in new


def test_the_backlog_and_who_is_behind_a_proxy_are_shown() -> None:
    now = told(1.0, backlog=2048, events=3, forwarded="203.0.113.9, 10.0.0.1")
    said = screen(now, told(0.0), 200, 50)
    assert "2.0 KB 3 ev  203.0.113.9 via 10.0.0.1:5" in said


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (40, 10), (20, 6)])
def test_it_fits_the_terminal(columns: int, lines: int) -> None:
    now = told(1.0)
    (row,) = now["workers"][0]["rows"]
    now["workers"][0]["rows"] = [{**row, "key": str(number)} for number in range(100)]
    shown = screen(now, told(0.0), columns, lines).splitlines()
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns
    assert any("waiting" in line or "1h06m" in line for line in shown)


def test_nothing_that_clients_sent_reaches_the_terminal_raw() -> None:
    evil = "\x1b]0;x\x07\x9b31m\r\n\u202e"
    said = screen(told(1.0, route=evil, forwarded=evil, client=evil), told(0.0), 200, 50)
    assert all(character.isprintable() for line in said.split("\n") for character in line)


def test_wide_letters_do_not_shift_the_table() -> None:
    now = told(1.0)
    (row,) = now["workers"][0]["rows"]
    now["workers"][0]["rows"] = [
        {**row, "key": str(number), "forwarded": forwarded, "route": "GET /end"}
        for number, forwarded in enumerate(
            ("\u6771\u4eac", "x", "e\u0301\u0301", "\u05d0", "\ufe0f")
        )
    ]
    shown = screen(now, told(0.0), 200, 50).splitlines()
    places = {width(line[: line.index("GET /end")]) for line in shown if "GET /end" in line}
    assert places == {width(shown[2][: shown[2].index("ROUTE")])}
    for columns in (10, 61, 62, 63, 80):
        assert all(
            width(line) <= columns for line in screen(now, told(0.0), columns, 50).split("\n")
        )


def test_few_endings_are_remembered_and_no_stream_for_their_sake() -> None:
    drain = Drain(0)
    kept = []
    for number in range(3 * KEPT):
        stream: Any = Stream(iter(()), lambda: None, {"vento_wsgi.route": str(number)})
        kept.append(weakref.ref(stream))
        drain.add(stream)
        drain.discard(stream)
        drain.discard(stream)
        del stream
    assert [end[0] for end in drain.ended] == [str(n) for n in range(2 * KEPT, 3 * KEPT)]
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []
