"""What the doctor makes of the items of a stream and of the times in them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vento_wsgi.cli import main
from vento_wsgi.cli.doctor import findings
from vento_wsgi.cli.doctor.bursts import Bursts
from vento_wsgi.cli.doctor.fixes import FIXES
from vento_wsgi.cli.doctor.items import Item, items, kind_of
from vento_wsgi.cli.doctor.request import Arrival, ResponseHead
from vento_wsgi.exceptions import NotExamined


@pytest.mark.parametrize(
    "value", ["9" * 400, "1e400", "-1e400", "NaN", '"0001-01-01T00:00:00+23:59"', "9" * 5000]
)
def test_absurd_times_are_no_times(value: str) -> None:
    (item,) = items([Arrival(0, f'data: {{"time": {value}}}\n\n'.encode())], EVENTS)
    assert item.made is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--seconds", "0"], "seconds are a number above 0, at most 86400, not '0'"),
        (["--seconds", "soon"], "seconds are a number above 0, at most 86400, not 'soon'"),
        (["--header", "no colon"], "a header is 'Name: value', not 'no colon'"),
        (["--header", "A: b\r\nC: d"], "a header is 'Name: value', not "),
        (["--as", "music"], "invalid choice: 'music'"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "http://127.0.0.1:1/", *options])
    assert why in capsys.readouterr().err


def test_every_fix_is_that_of_a_finding() -> None:
    source = Path(findings.__file__).read_text()
    assert [code for code in FIXES if f'"{code}"' not in source] == []


# Reading, without a network.

EVENTS = ResponseHead("1.1", 200, "OK", [("Content-Type", "text/event-stream")])


def test_items_are_cut_wherever_they_arrive_and_know_when_they_were_made() -> None:
    now = time.time()
    data = f':\n\nid: 7\ndata: {{"time": {now}}}\n\ndata: x\n\n'.encode()
    arrivals = [Arrival(float(at), data[at : at + 1]) for at in range(len(data))]
    beat, first, last = items(arrivals, EVENTS)
    assert beat.beat
    assert (first.id, first.made, first.at) == ("7", now, len(data) - 10.0)
    assert (last.made, last.beat) == (None, False)


@pytest.mark.parametrize(
    "value",
    [
        '{"ts": %f}',
        '{"timestamp": %f000}',
        '{"created_at": "%s"}',
    ],
)
def test_times_are_understood(value: str) -> None:
    now = round(time.time(), 0)
    iso = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now))
    ms = value.replace("%f000", str(now * 1000)).replace("%f", str(now)).replace("%s", iso)
    (item,) = items([Arrival(0, f"data: {ms}\n\n".encode())], EVENTS)
    assert item.made == now


@pytest.mark.parametrize("value", ['{"time": 5}', '{"time": true}', '{"at": "home"}', "[1]", "{"])
def test_what_is_no_time_is_none(value: str) -> None:
    (item,) = items([Arrival(0, f"data: {value}\n\n".encode())], EVENTS)
    assert item.made is None


def made(*pairs: tuple[float, float]) -> list[Item]:
    """Items by when they came, and when they were made, in seconds from now."""
    wall, now = time.time(), time.monotonic()
    return [Item(now + at, 10, wall + made_at) for at, made_at in pairs]


def test_what_was_made_before_the_request_was_not_held_back() -> None:
    now = time.monotonic()
    history = made((0.1, -50), (0.1, -40), (0.1, -30), (0.2, 0.1), (0.3, 0.2), (0.4, 0.3))
    assert Bursts.of(history, now, now) is None
    held = made((1.1, 0.1), (1.1, 0.6), (1.1, 1.0))
    bursts = Bursts.of(held, now, now)
    assert bursts is not None
    assert bursts.largest == 3
    assert bursts.held == pytest.approx(0.9, abs=0.01)


def test_a_clock_that_is_wrong_does_not_matter() -> None:
    now = time.monotonic()
    for off in (-3600.0, 3600.0):
        fine = made(*((at / 10, at / 10 + off) for at in range(10)))
        assert Bursts.of(fine, now - 1, now) is None
        held = made(*((2.0, at / 10 + off) for at in range(10)))
        assert Bursts.of(held, now - 1, now) is not None


def test_a_burst_that_was_cut_on_the_way_is_one() -> None:
    now = time.monotonic()
    bursts = [Item(now + at, 9) for t in (0.3, 0.6, 0.9) for at in (t, *[t + 0.001] * 7)]
    found = Bursts.of(bursts, now, now)
    assert found is not None
    assert (found.largest, found.size, found.sure) == (8, 72, False)


def test_items_that_come_fast_are_no_burst() -> None:
    now = time.monotonic()
    assert Bursts.of([Item(now + 0.5 + at / 1000, 9) for at in range(999)], now, now) is None


def test_one_late_item_is_no_habit() -> None:
    now = time.monotonic()
    pairs = [(at / 10, at / 10) for at in range(20)]
    assert Bursts.of(made(*pairs, (3.0, 2.1)), now - 1, now) is None


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Content-Type": "text/event-stream; charset=utf-8"}, "events"),
        ({"Content-Type": "application/x-ndjson", "Content-Length": "5"}, "stream"),
        ({"Content-Type": "text/plain"}, "stream"),
        ({"Content-Type": "text/plain", "Content-Length": "5"}, "file"),
        ({"Content-Type": "text/plain", "ETag": 'W/"x"'}, "file"),
    ],
)
def test_what_a_response_is_meant_to_be_is_seen(headers: dict[str, str], kind: str) -> None:
    assert kind_of(ResponseHead("1.1", 200, "OK", list(headers.items()))) == kind


def test_an_event_without_an_end_is_nothing_to_look_at() -> None:
    arrivals = [Arrival(0, b"data: " + bytes(1 << 20))] * 20
    with pytest.raises(NotExamined, match="a browser could not read this event stream"):
        list(items(arrivals, EVENTS))
