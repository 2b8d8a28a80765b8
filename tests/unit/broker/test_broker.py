"""The broker as applications use it: what is published comes once, in order, and nothing is silent.

One suite for every kind of log; the logs themselves have theirs in test_event_logs.py.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.logs import LONG, SECONDS, RedisServer
from support.servers import ROOT, eventually

from vento_wsgi import Event
from vento_wsgi.broker import Broker, Lagged, Subscription
from vento_wsgi.broker.backends.event_log import Entry, Topics
from vento_wsgi.broker.backends.memory import Memory
from vento_wsgi.broker.fanout import Fanout
from vento_wsgi.broker.frames import Backlog, Frame, Slow, gap, mark
from vento_wsgi.exceptions import BrokerError, EventError
from vento_wsgi.sse import COMMENT, decode

KINDS = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)]


@dataclass
class Opener:
    """Makes brokers of one log, and closes all in the end."""

    url: str
    brokers: list[Broker] = field(default_factory=list)

    def __call__(self, **options: Any) -> Broker:
        broker = Broker(self.url, **options)
        self.brokers.append(broker)
        return broker


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    url = "memory://"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/log.db"
    elif request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = f"{server.address}?name={tmp_path.name}"
    opener = Opener(url)
    yield opener
    for broker in opener.brokers:
        broker.close()


@pytest.fixture
def broker(opened: Opener) -> Broker:
    return opened()


class Reader(threading.Thread):
    """Iterates a subscription in a thread of its own."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__()
        self.subscription = subscription
        self.events: list[Event] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for event in self.subscription:
                self.events.append(event)
        except BaseException as error:
            self.error = error

    @property
    def data(self) -> list[str | None]:
        return [event.data for event in self.events]

    def has(self, number: int) -> None:
        eventually(lambda: len(self.events) >= number, SECONDS, lambda: repr(self.events[-3:]))

    def ends(self) -> None:
        self.join(SECONDS)
        assert not self.is_alive()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.subscription.close()
        self.ends()


def sinks(broker: Broker) -> int:
    """How many subscribers the broker tells in this process."""
    return broker._opened().told().sinks


def take(subscription: Subscription, number: int) -> list[str | None]:
    return [event.data for event in islice(subscription, number)]


def joined(broker: Broker, subscription: Subscription) -> Subscription:
    """A subscription that has read all there was, and one event live."""
    before = sinks(broker)
    reader = threading.Thread(target=next, args=(subscription,))
    reader.start()
    eventually(lambda: sinks(broker) > before)
    told_all(broker, broker.publish("a", "live"))
    reader.join(SECONDS)
    return subscription


def told_all(broker: Broker, id: str) -> None:
    """Wait until every subscriber has been told of the event with this id."""
    here = broker._opened()
    eventually(lambda: here.source().id(here.told().told) == id)


def fill(broker: Broker, number: int, topic: str = "a") -> list[str]:
    return [broker.publish(topic, str(i)) for i in range(number)]


def texts(start: int, stop: int) -> list[str]:
    return [str(i) for i in range(start, stop)]


# What is published.


def test_ids_rise_and_can_be_sent_back_by_a_browser(broker: Broker) -> None:
    subscription = broker.subscribe("a", "b")
    ids = [broker.publish("ab"[i % 2], str(i)) for i in range(50)]
    assert len(set(ids)) == 50
    for name in ids:
        assert Event("", id=name).id == name
        assert re.fullmatch(r"[!-~]{1,64}", name)
    assert [event.id for event in islice(subscription, 50)] == ids
    for number, name in enumerate(ids[:-1]):
        assert take(broker.subscribe("a", "b", after=name), 1) == [str(number + 1)]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("text", "text"),
        ("", ""),
        ("two\nlines", "two\nlines"),
        ("été ☂ \0", "été ☂ \0"),
        (b"bytes \xc3\xa9", "bytes é"),
        (bytearray(b"more"), "more"),
        ({"n": [1, None]}, '{"n":[1,null]}'),
        (0, "0"),
        (False, "false"),
        (Event("event"), "event"),
    ],
)
def test_text_bytes_and_json_are_published_as_data(event: object, data: str) -> None:
    with closing(Broker("memory://")) as broker:
        subscription = broker.subscribe("a")
        broker.publish("a", event)
        assert next(subscription).data == data


def test_an_event_keeps_its_fields(broker: Broker) -> None:
    subscription = broker.subscribe("a")
    name = broker.publish("a", Event("é", event="goal", retry=5, comment="c"))
    assert next(subscription) == Event("é", event="goal", retry=5, comment="c", id=name)


@pytest.mark.parametrize(
    "event",
    [
        *(Event("x", id="1"), Event("x", id=""), Event(comment="x"), Event(retry=1)),
        *(None, object(), b"\xff", "\ud800", float("nan")),
    ],
)
def test_what_is_no_event_is_refused(broker: Broker, event: object) -> None:
    start = broker.subscribe("a").last_id
    with pytest.raises(EventError):
        broker.publish("a", event)
    assert broker.subscribe("a").last_id == start


def test_an_event_has_a_greatest_size(opened: Opener) -> None:
    broker = opened(max_event=100)
    broker.publish("a", "x" * (100 - len("data: \n\n")))
    with pytest.raises(EventError, match=r"101 bytes is over the limit of 100.*max_event"):
        broker.publish("a", "x" * (101 - len("data: \n\n")))


@pytest.mark.parametrize(
    "topic",
    [
        *("", "*", "a/*", "a*", "/*", "*/*", "a/*/*", "a/*/b"),
        *("a\n", "a\0b", "\ud800", "x" * 201, None, 1, b"a"),
    ],
)
def test_what_is_no_topic_is_refused(topic: Any) -> None:
    broker = Broker("memory://")
    with pytest.raises(ValueError, match="a topic"):
        broker.publish(topic, "x")
    for names, below in (((topic,), ()), (("a", topic), ()), ((), [topic]), (("a",), ["b", topic])):
        with pytest.raises(ValueError, match="a topic"):
            broker.subscribe(*names, below=below)


def test_a_name_with_a_star_is_refused_with_what_to_write_instead() -> None:
    broker = Broker("memory://")
    for topic, hint in (("world/*", "world"), ("a/b/*", "a/b"), ("*", "world"), ("a*", "world")):
        for use in (broker.subscribe, lambda name: broker.publish(name, "x")):
            with pytest.raises(ValueError, match=re.escape(f"subscribe(below='{hint}')")):
                use(topic)


@pytest.mark.parametrize(
    "below", ["", "*", "world/", "/", ["world", "sports/"], [b"a"], b"a", None, 5]
)
def test_what_nothing_can_be_below_is_refused(below: Any) -> None:
    with pytest.raises(ValueError, match="a topic"):
        Broker("memory://").subscribe("a", below=below)


def test_a_name_from_a_url_reads_nothing_of_anybody_else(broker: Broker) -> None:
    """Whatever a visitor calls himself, a topic is that name and no pattern."""
    start = broker.subscribe("x").last_id
    for name in ("ada", "%", "_", "ad_", "[a]", "a?a", "..", "."):
        broker.publish(f"user/{name}", name)
    for name in ("%", "_", "ad_", "[a]", "a?a", "..", "."):
        subscription = broker.subscribe(f"user/{name}", after=start)
        live = broker.publish(f"user/{name}", "live")
        assert take(subscription, 2) == [name, "live"]
        assert subscription.last_id == live


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"slow": "fast"}, "slow is one of disconnect, drop_oldest, latest, not 'fast'"),
        ({"backlog": 0}, "backlog is a number of events from 1 on, not 0"),
        ({"backlog": "9"}, "backlog is a number"),
        ({"backlog": True}, "backlog is a number"),
        ({"after": 17}, "after is the id of an event or None, not 17"),
        ({"after": b"1-1"}, "after is the id"),
        ({"replay": -1}, "replay is a number of events, 0 or more, or None, not -1"),
        ({"replay": True}, "replay is a number"),
        ({"replay": "9"}, "replay is a number"),
    ],
)
def test_arguments_that_are_none_are_refused_at_once(options: Any, says: str) -> None:
    broker = Broker("memory://")
    with pytest.raises(ValueError, match=re.escape(says)):
        broker.subscribe("a", **options)
    with pytest.raises(ValueError, match="one topic or more"):
        broker.subscribe()


# Who subscribes.


def test_without_after_only_what_comes_later_is_given(broker: Broker) -> None:
    fill(broker, 3)
    subscription = broker.subscribe("a")
    broker.publish("a", "new")
    assert take(subscription, 1) == ["new"]


def test_with_after_everything_later_is_given_first(broker: Broker) -> None:
    ids = fill(broker, 450)
    subscription = broker.subscribe("a", after=ids[9])
    assert subscription.last_id == ids[9]
    assert take(subscription, 440) == texts(10, 450)
    assert subscription.last_id == ids[-1]
    broker.publish("a", "live")
    assert take(subscription, 1) == ["live"]


@pytest.mark.parametrize(
    ("topics", "below", "given"),
    [
        (["a"], (), ["a"]),
        (["a", "b"], (), ["a", "b"]),
        ([], "a", ["a/b", "a/b/c"]),
        (["a/b"], "a", ["a/b", "a/b/c"]),
        (["c"], ["a/b", "a"], ["a/b", "a/b/c", "c"]),
        ([], {"☂"}, ["☂/☂"]),
    ],
)
def test_topics_are_names_and_all_below_a_name_from_the_log_and_live(
    broker: Broker, topics: list[str], below: Any, given: list[str]
) -> None:
    all_topics = ["a", "a/b", "ab", "a/b/c", "b", "c", "☂/☂"]
    start = broker.subscribe("a").last_id
    live = broker.subscribe(*topics, below=below)
    for topic in all_topics:
        broker.publish(topic, topic)
    after = broker.subscribe(*topics, below=below, after=start)
    assert take(after, len(given)) == given
    for topic in all_topics:
        broker.publish(topic, topic)
    assert take(live, 2 * len(given)) == 2 * given
    assert take(after, len(given)) == given


def test_nothing_is_missing_or_doubled_at_the_seam(opened: Opener) -> None:
    broker, other = opened(), opened()
    publisher = broker if opened.url == "memory://" else other
    start = broker.subscribe("a").last_id
    number = 600

    def publish() -> None:
        for i in range(number):
            publisher.publish("a" if i % 3 else "noise", str(i))

    thread = threading.Thread(target=publish)
    thread.start()
    readers: list[Reader] = []
    seen: list[str] = [start]
    while thread.is_alive() and len(readers) < 20:  # each joins at another moment
        readers.append(Reader(broker.subscribe("a", after=seen[-1])))
        time.sleep(0.003)
        seen += [event.id or "" for event in readers[0].events[-1:]]
    thread.join()
    readers.append(Reader(broker.subscribe("a", after=start)))
    publisher.publish("a", "end")
    wanted = [str(i) for i in range(number) if i % 3] + ["end"]
    for reader in readers:
        eventually(lambda: reader.data[-1:] == ["end"], SECONDS)  # noqa: B023
        reader.subscription.close()
        reader.ends()
        assert reader.data == wanted[-len(reader.data) :]
        assert len({event.id for event in reader.events}) == len(reader.events)
    assert readers[-1].data == wanted


PATCHED = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from vento_wsgi.broker import Broker
broker = Broker(sys.argv[1])
start = broker.subscribe("a").last_id
wanted = [str(i) for i in range(400)]
def publish():
    for data in wanted:
        broker.publish("a", data)
        gevent.sleep(0)
def read(after):
    subscription, got = broker.subscribe("a", after=after), []
    for event in subscription:
        got.append(event.data)
        if event.data == wanted[-1]:
            subscription.close()
    return got
with gevent.Timeout(60):
    publisher = gevent.spawn(publish)
    readers = []
    for _ in range(20):  # each comes at another moment
        readers.append(gevent.spawn(read, start))
        gevent.sleep(0.002)
    publisher.get()
    for reader in readers:
        assert reader.get() == wanted
    waiting = broker.subscribe("a")
    reader = gevent.spawn(list, waiting)
    gevent.sleep(0.01)
    waiting.close()
    assert reader.get() == []
    reader = gevent.spawn(next, broker.subscribe("a"))
    gevent.sleep(0.01)
    reader.kill()
    assert broker.subscribers == 0
broker.close()
"""


def test_nothing_is_missing_or_doubled_at_the_seam_under_gevent(opened: Opener) -> None:
    run(PATCHED, opened.url)


def run(code: str, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


COLLECTED = """
import gc, sys
from vento_wsgi.broker import Broker
gc.set_threshold(1)
broker = Broker(sys.argv[1])
for n in range(500):
    subscription = broker.subscribe("a", slow="latest")
    broker.publish("a", n)
    for event in subscription:
        break
    del subscription
broker.close()
"""


def test_garbage_may_be_collected_at_any_moment(opened: Opener) -> None:
    run(COLLECTED, opened.url)


def test_every_subscriber_of_every_broker_has_every_event(opened: Opener) -> None:
    broker = opened()
    others = [broker if opened.url == "memory://" else opened() for _ in range(3)]
    readers = [Reader(each.subscribe("a")) for each in others for _ in range(10)]
    ids = fill(broker, 100)
    for reader in readers:
        with reader:
            reader.has(100)
            assert [event.id for event in reader.events] == ids


# What is missing is said.


@pytest.mark.parametrize("after", ["", "x", "1", "1-1", "vaaaaaaaa-1", "é", "0-0", "9" * 1000])
def test_an_id_that_is_unknown_is_answered_by_a_gap_at_the_end(broker: Broker, after: str) -> None:
    ids = fill(broker, 3)
    if after == "0-0" and broker.url.startswith("unix"):
        return  # the start of a Redis that has all
    subscription = broker.subscribe("a", after=after)
    live = broker.publish("a", "live")
    is_a_gap_at(ids[-1], next(subscription))
    assert take(subscription, 1) == ["live"]
    assert subscription.last_id == live
    assert take(broker.subscribe("a", after=ids[-1]), 1) == ["live"], "and one comes back to there"


def is_a_gap_at(id: str, event: Event) -> None:
    assert event.data is not None
    assert (event.event, event.id, json.loads(event.data)) == ("gap", id, {"until": id})


def test_an_id_that_is_too_old_is_answered_by_a_gap_at_the_end(opened: Opener) -> None:
    broker = opened(keep=300)
    ids = fill(broker, 1500)
    subscription = broker.subscribe("a", after=ids[10])
    is_a_gap_at(ids[-1], next(subscription))
    broker.publish("a", "live")
    assert take(subscription, 1) == ["live"]


@pytest.mark.parametrize("replay", [0, 1, 249, 250, 251, None])
def test_so_many_are_given_again_and_no_more(broker: Broker, replay: int | None) -> None:
    ids = [broker.publish("ab"[i % 2], str(i)) for i in range(501)]
    subscription = broker.subscribe("b", after=ids[0], replay=replay)
    given = texts(1, 501)[::2]
    if replay is not None and replay < len(given):
        assert take(subscription, replay) == given[:replay]
        is_a_gap_at(ids[-1], next(subscription))
    else:
        assert take(subscription, len(given)) == given
    broker.publish("b", "live")
    assert take(subscription, 1) == ["live"], "which is not counted"


@pytest.mark.parametrize("after", [True, False])
def test_what_comes_after_one_has_subscribed_is_not_given_again(
    broker: Broker, after: bool
) -> None:
    (last,) = fill(broker, 1)
    subscription = broker.subscribe("a", after=last if after else None, replay=0)
    assert subscription.last_id == last
    if after:  # from the first event on it counts
        reader = Reader(subscription)
        eventually(lambda: broker.subscribers == 1)
        fill(broker, 3)
        reader.has(3)
        with reader:
            assert reader.data == texts(0, 3)
    else:
        fill(broker, 3)
        assert take(subscription, 3) == texts(0, 3)


def test_a_slow_subscriber_that_was_sent_away_comes_back_within_the_replay() -> None:
    from vento_wsgi.broker.broker import BACKLOG, REPLAY

    assert REPLAY > 2 * BACKLOG


def test_an_id_of_another_log_is_answered_by_a_gap(broker: Broker, tmp_path: Path) -> None:
    other = Broker(f"sqlite:///{tmp_path}/other.db")
    with closing(other):
        foreign = other.publish("a", "x")
        here = broker.publish("a", "y")
        is_a_gap_at(here, next(broker.subscribe("a", after=foreign)))


def test_what_is_dropped_while_it_is_read_is_said(opened: Opener) -> None:
    broker = opened(keep=300)
    ids = fill(broker, 299)
    subscription = broker.subscribe("a", after=ids[0])
    assert take(subscription, 100) == texts(1, 101)  # of the first page
    ids = fill(broker, 1500)
    given = take(subscription, 101)
    assert given[:100] == texts(101, 201)
    assert json.loads(given[100] or "") == {"until": ids[-1]}
    broker.publish("a", "live")
    assert take(subscription, 1) == ["live"]


# How subscriptions end.


def test_close_ends_a_subscription_that_waits_elsewhere(broker: Broker) -> None:
    reader = Reader(broker.subscribe("a"))
    broker.publish("a", "x")
    reader.has(1)
    for _ in range(2):
        reader.subscription.close()
    reader.ends()
    assert reader.error is None
    assert list(reader.subscription) == []


def test_a_subscription_that_is_closed_gives_nothing(broker: Broker) -> None:
    ids = fill(broker, 3)
    subscription = broker.subscribe("a", after=ids[0])
    subscription.close()
    assert list(subscription) == []
    subscription = broker.subscribe("a", after=ids[0])
    assert next(subscription).data == "1"
    subscription.close()
    assert list(subscription) == []


def test_a_subscriber_that_left_is_told_nothing(broker: Broker) -> None:
    fanout = broker._opened().told()
    for _ in range(3):
        subscription = joined(broker, broker.subscribe("a", below="b"))
        assert fanout.sinks == 1
        subscription.close()
        assert fanout.sinks == 0
    assert (fanout._names, fanout._prefixes) == ({}, {})


@pytest.mark.parametrize("slow", ["disconnect", "latest"])
def test_a_subscriber_that_was_abandoned_is_forgotten(broker: Broker, slow: Slow) -> None:
    subscription = joined(broker, broker.subscribe("a", slow=slow))
    broker.publish("a", "x")
    for event in subscription:
        assert event.data == "x"
        break
    del subscription
    gc.collect()
    told_all(broker, broker.publish("a", "y"))
    assert sinks(broker) == 0


def test_closing_the_broker_tells_those_who_wait(opened: Opener) -> None:
    broker = opened()
    reader = Reader(broker.subscribe("a"))
    last = broker.publish("a", "x")
    reader.has(1)
    broker.close()
    reader.ends()
    assert isinstance(reader.error, BrokerError)
    assert "closed" in str(reader.error)
    reader.subscription.close()
    if opened.url != "memory://":
        assert reader.subscription.last_id == last
    assert not [thread for thread in threading.enumerate() if thread.name == "vento_wsgi broker"], (
        "and nothing was opened by it"
    )


def test_a_broker_that_was_closed_can_be_used_again(opened: Opener) -> None:
    broker = opened()
    broker.close()
    last = broker.publish("a", "x")
    broker.close()
    broker.close()
    subscription = broker.subscribe("a", after=last)
    if opened.url == "memory://":
        assert next(subscription).event == "gap"
    broker.publish("a", "y")
    assert next(subscription).data == "y"
    old = broker.subscribe("a")
    broker.close()
    with pytest.raises(BrokerError, match="closed"):
        next(old)


def test_a_subscriber_that_is_too_slow_lags_and_goes_on_without_loss(broker: Broker) -> None:
    subscription = joined(broker, broker.subscribe("a", backlog=10))
    told_all(broker, fill(broker, 30)[-1])
    assert sinks(broker) == 0
    with pytest.raises(Lagged, match=r"too slow.*last_id"):
        next(subscription)
    with pytest.raises(StopIteration):
        next(subscription)
    again = broker.subscribe("a", after=subscription.last_id)
    assert take(again, 30) == texts(0, 30)


def slow_one(broker: Broker, slow: Slow, backlog: int) -> tuple[Subscription, list[str]]:
    """A subscription that has not read 30 events; the ids of these."""
    subscription = joined(broker, broker.subscribe("a", slow=slow, backlog=backlog))
    ids = [broker.publish("a", Event(str(i), event=f"e{i % 3}")) for i in range(30)]
    told_all(broker, ids[-1])
    return subscription, ids


def test_drop_oldest_gives_a_gap_in_the_place_of_what_was_dropped(broker: Broker) -> None:
    subscription, ids = slow_one(broker, "drop_oldest", 10)
    first = next(subscription)
    assert (first.event, first.id) == ("gap", ids[19])
    assert take(subscription, 10) == texts(20, 30)
    broker.publish("a", "more")
    assert take(subscription, 1) == ["more"]


def test_latest_gives_the_newest_of_each_name(broker: Broker) -> None:
    subscription, ids = slow_one(broker, "latest", 3)
    assert [event.id for event in islice(subscription, 3)] == ids[-3:]
    broker.publish("a", "more")
    assert take(subscription, 1) == ["more"]


# The backlog by itself.


def frame(position: int, name: str = "message") -> Frame:
    event = Event(str(position), event=None if name == "message" else name)
    return Frame(position, f"id: {position}\n".encode() + event.encode())


@pytest.fixture
def log() -> Any:
    return Mock(id=str)


def drained(backlog: Backlog) -> list[str]:
    found = []
    while backlog:
        block = backlog.take().block
        (event,) = decode([block])
        found.append(f"gap {event.id}" if event.event == "gap" else str(event.data))
    assert len(backlog) == 0
    return found


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("slow", ["disconnect", "drop_oldest", "latest"])
def test_up_to_its_limit_a_backlog_keeps_all(log: Any, slow: Slow, limit: int) -> None:
    backlog = Backlog(log, limit, slow)
    for position in range(limit):
        assert backlog.add(frame(position))
    assert drained(backlog) == texts(0, limit)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_one_too_many_and_the_subscriber_has_to_go(log: Any, limit: int) -> None:
    backlog = Backlog(log, limit, "disconnect")
    assert [backlog.add(frame(n)) for n in range(limit + 1)] == [True] * limit + [False]
    backlog.clear()
    assert drained(backlog) == []


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_drop_oldest_keeps_the_newest_behind_a_gap(log: Any, limit: int) -> None:
    backlog = Backlog(log, limit, "drop_oldest")
    assert all(backlog.add(frame(n)) for n in range(100))
    assert len(backlog) == limit + 1
    assert drained(backlog) == [f"gap {99 - limit}", *texts(100 - limit, 100)]


@pytest.mark.parametrize(
    ("limit", "names", "expected"),
    [
        (1, "aaaa", ["3"]),
        (1, "abab", ["gap 2", "3"]),
        (3, "abcab", ["2", "3", "4"]),
        (3, "aaab", ["2", "3"]),
        (3, "abcd", ["gap 0", "1", "2", "3"]),
        (3, "abcdefa", ["gap 3", "4", "5", "6"]),
        (3, "aaaaaaa", ["6"]),
        (4, "aabbb", ["1", "4"]),
    ],
)
def test_latest_keeps_the_newest_of_each_name_once_it_is_full(
    log: Any, limit: int, names: str, expected: list[str]
) -> None:
    backlog = Backlog(log, limit, "latest")
    assert all(backlog.add(frame(n, name)) for n, name in enumerate(names))
    assert drained(backlog) == expected


@pytest.mark.parametrize("slow", ["disconnect", "drop_oldest", "latest"])
def test_a_mark_makes_room_for_an_event(log: Any, slow: Slow) -> None:
    backlog = Backlog(log, 1, slow)
    assert backlog.add(mark(log, 1))
    assert backlog.add(mark(log, 2))
    assert len(backlog) == 1
    assert backlog.add(frame(3))
    assert drained(backlog) == ["3"]


def test_events_without_a_name_are_messages(log: Any) -> None:
    backlog = Backlog(log, 1, "latest")
    for name in ("message", "other", "message"):
        backlog.add(frame(1, name))
    assert frame(1).name == b"message"
    tricky = Event("event: x\nevent: y", comment="event: z")
    assert Frame(1, b"id: 1\n" + tricky.encode()).name == b"message"
    assert Frame(1, b"id: 1\n" + Event("event: x", event="é").encode()).name == "é".encode()


@pytest.mark.parametrize("slow", ["drop_oldest", "latest"])
def test_what_a_subscriber_has_is_skipped(log: Any, slow: Slow) -> None:
    backlog = Backlog(log, 3, slow)
    for n in range(6):
        backlog.add(frame(n, str(n)))
    backlog.skip(1)
    assert len(backlog) == 4
    backlog.skip(2)
    assert len(backlog) == 3
    backlog.skip(4)
    assert drained(backlog) == ["5"]
    backlog.skip(9)
    assert drained(backlog) == []


def test_a_gap_says_until_where() -> None:
    assert gap(Mock(id=str), 7).block == b'event: gap\nid: 7\ndata: {"until":"7"}\n\n'


# For a browser.


def test_blocks_begin_with_where_one_stands_unless_the_client_has_that_id(broker: Broker) -> None:
    ids = fill(broker, 2)
    subscription = broker.subscribe("a")
    blocks = subscription.blocks()
    assert next(blocks) == f"id: {ids[1]}\n\n".encode()
    live = broker.publish("a", Event("x", event="y"))
    assert next(blocks) == f"id: {live}\nevent: y\ndata: x\n\n".encode()
    subscription.close()
    assert list(blocks) == []
    blocks = broker.subscribe("a", after=ids[0]).blocks()
    assert next(blocks) == f"id: {ids[1]}\ndata: 1\n\n".encode()
    other = broker.publish("b", "x")
    told_all(broker, other)
    blocks = broker.subscribe("c", after=ids[0]).blocks()
    assert next(blocks) == f"id: {other}\n\n".encode()


class Blocks(threading.Thread):
    """Reads the blocks of a subscription, as a server does without a loop."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__()
        self.subscription = subscription
        self.events: list[Event] = []
        self.quiet = 0
        self.start()

    def run(self) -> None:
        for block in self.subscription.blocks():
            self.quiet += block == COMMENT
            self.events += decode([block])

    @property
    def last_id(self) -> str:
        return next((event.id for event in reversed(self.events) if event.id is not None), "")

    def __enter__(self) -> Blocks:
        eventually(lambda: bool(self.events))
        return self

    def __exit__(self, *_: object) -> None:
        self.subscription.close()
        self.join(SECONDS)
        assert not self.is_alive()


def test_the_id_of_a_quiet_subscriber_is_always_in_the_log(opened: Opener) -> None:
    broker = opened(keep=40)
    source = broker._opened().source()
    start = broker.subscribe("a").last_id
    reading = Blocks(broker.subscribe("a"))
    plain = Reader(broker.subscribe("a"))
    with reading, plain:
        assert reading.last_id == start
        for number in range(100):
            told_all(broker, fill(broker, 5, "busy")[-1])
            for one in (reading, plain.subscription):
                eventually(lambda: not source.lost(source.position(one.last_id)))  # noqa: B023
            if number == 50:
                broker.publish("a", "x")
        fill(broker, 1, "a")
        plain.has(2)
        eventually(lambda: reading.events[-1].data == "0")
    assert plain.data == ["x", "0"], "and a loop over it sees no marks"
    positions: list[Any] = [source.position(event.id or "") for event in reading.events]
    assert positions == sorted(set(positions))
    marks = [event for event in reading.events if event.data is None]
    assert 500 / 40 <= len(marks) < 500 / 40 * 3


def test_without_a_loop_a_comment_breaks_the_silence(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vento_wsgi.broker.subscription.SILENCE", 0.01)
    with Blocks(broker.subscribe("a")) as reading:
        eventually(lambda: reading.quiet > 3)
        broker.publish("a", "x")
        eventually(lambda: "x" in [event.data for event in reading.events])


def test_blocks_end_where_a_browser_has_to_come_back(broker: Broker) -> None:
    blocks = broker.subscribe("a", backlog=1).blocks()
    next(blocks)
    reader = threading.Thread(target=next, args=(blocks,))
    reader.start()
    eventually(lambda: sinks(broker) == 1)
    told_all(broker, broker.publish("a", "x"))
    reader.join(SECONDS)
    told_all(broker, fill(broker, 3)[-1])
    assert sinks(broker) == 0
    assert list(blocks) == []
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(broker.subscribe("a").blocks()))
    thread.start()
    eventually(lambda: sinks(broker) == 1)
    told_all(broker, broker.publish("a", "x"))
    broker.close()
    thread.join(SECONDS)
    assert len(got) == 2


# The fan-out by itself.


class Log:
    """A log that is told what to give."""

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self.missing: list[Any] = []
        self.more = threading.Condition()
        self.closed = False

    def last(self) -> int:
        return 10

    def first(self) -> int:
        return 20

    def lost(self, _: int) -> bool:
        found = self.missing.pop() if self.missing else False
        if isinstance(found, Exception):
            raise found
        return bool(found)

    def id(self, position: int) -> str:
        return str(position)

    def give(self, *positions: int) -> None:
        with self.more:
            self.batches.append([Entry(n, "a", b"data: %d\n\n" % n) for n in positions])
            self.more.notify()

    def follow(self, _: int) -> Iterator[list[Entry]]:
        while True:
            with self.more:
                self.more.wait_for(lambda: self.batches or self.closed)
                if not self.batches:
                    return
            yield self.batches.pop(0)

    def close(self) -> None:
        with self.more:
            self.closed = True
            self.more.notify()


class Sink:
    topics = Topics(["a"])

    def __init__(self) -> None:
        self.told: list[object] = []
        self.fails = False
        self.holds: Any = None

    def put(self, frame: Frame) -> None:
        (event,) = decode([frame.block])
        if self.holds is not None:
            self.holds = frame.position
        if event.data is None:
            self.told.append(f"mark {frame.position}")
            return
        self.told.append(event.event or frame.position)
        if self.fails:
            raise RuntimeError("told to fail")

    def dismiss(self) -> None:
        self.told.append("dismissed")


@pytest.fixture
def told() -> Iterator[tuple[Log, Fanout, Sink]]:
    log, sink = Log(), Sink()
    fanout = Fanout(log, 100, LONG)  # type: ignore[arg-type]
    fanout.join(sink)
    yield log, fanout, sink
    log.close()
    eventually(lambda: fanout.over)


def test_a_fan_out_that_reads_late_says_what_is_missing(
    told: tuple[Log, Fanout, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, fanout, sink = told
    monkeypatch.setattr("vento_wsgi.broker.fanout.LONG", 0.0)
    log.missing = [True]
    log.give(15, 20, 21, 22)
    eventually(lambda: sink.told == ["gap", 21, 22])
    assert fanout.position == fanout.told == 22


def test_where_it_cannot_be_known_what_is_missing_all_come_back(
    told: tuple[Log, Fanout, Sink],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, fanout, sink = told
    monkeypatch.setattr("vento_wsgi.broker.fanout.LONG", 0.0)
    log.missing = [BrokerError("gone")]
    log.give(15, 16)
    eventually(lambda: sink.told == ["dismissed"])
    assert fanout.position == 16
    assert "whether events are missing" in caplog.text
    assert fanout.sinks == 0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time of the fan-out."""
    at = 0.0

    def set_to(seconds: float) -> None:
        nonlocal at
        at = seconds

    monkeypatch.setattr("vento_wsgi.broker.fanout.monotonic", lambda: at)
    return set_to


def test_who_holds_an_id_that_leaves_the_log_is_given_another(
    told: tuple[Log, Fanout, Sink],
) -> None:
    log, _, sink = told
    quiet, behind = Sink(), Sink()
    quiet.topics = behind.topics = Topics(["quiet"])
    quiet.holds, behind.holds, sink.holds = 10, None, 10
    for each in (quiet, behind):
        told[1].join(each)
    for position in range(11, 100):  # it keeps 100
        log.give(position)
    eventually(lambda: sink.told[-1:] == [99])
    (given,) = quiet.told
    assert 60 <= int(str(given).removeprefix("mark ")) <= 75
    assert behind.told == [], "it is given an id by what waits for it"
    assert sink.told == list(range(11, 100)), "and so are those with a new one"


@pytest.mark.parametrize("busy", [True, False])
def test_what_leaves_the_log_by_its_age_is_given_another_id(
    now: Callable[[float], None], busy: bool
) -> None:
    log, quiet, busy_one = Log(), Sink(), Sink()
    quiet.topics, quiet.holds = Topics(["quiet"]), 11
    fanout = Fanout(log, 10_000, 80.0)  # type: ignore[arg-type]
    for each in (quiet, busy_one):
        fanout.join(each)
    times = [*range(5, 60, 5), 60] if busy else [5, 1000]
    for position, seconds in enumerate(times, 11):
        now(seconds)
        log.give(position)
        eventually(lambda: fanout.told == position)  # noqa: B023
    log.close()
    eventually(lambda: fanout.over)
    quiet.told.remove("dismissed")
    (given,) = quiet.told
    at = times[int(str(given).removeprefix("mark ")) - 11]
    assert 45 <= at <= 60 if busy else at == 1000


def test_a_log_that_begins_anew_sends_all_away(told: tuple[Log, Fanout, Sink]) -> None:
    log, fanout, sink = told
    log.give(11)
    eventually(lambda: sink.told == [11])
    log.give(1, 2)
    eventually(lambda: sink.told == [11, "dismissed"])
    assert fanout.told == 2
    assert fanout.join(sink) == 2
    log.give(3)
    eventually(lambda: sink.told == [11, "dismissed", 3])


def test_a_log_that_ends_sends_all_away_and_takes_nobody(told: tuple[Log, Fanout, Sink]) -> None:
    log, fanout, sink = told
    log.close()
    eventually(lambda: sink.told == ["dismissed"])
    with pytest.raises(BrokerError, match="closed"):
        fanout.join(sink)


def test_a_sink_that_fails_is_sent_away_and_the_others_are_told(
    told: tuple[Log, Fanout, Sink], caplog: pytest.LogCaptureFixture
) -> None:
    log, fanout, sink = told
    others = [Sink(), Sink()]
    for each in others:
        fanout.join(each)
    sink.fails = True
    log.give(11, 12)
    eventually(lambda: all(each.told == [11, 12] for each in others))
    assert sink.told == [11, "dismissed"]
    assert "told to fail" in caplog.text


def test_leaving_waits_for_nobody_and_is_done_before_the_lock_is_free(
    told: tuple[Log, Fanout, Sink],
) -> None:
    """As where garbage is collected: in any line, of the thread that has the lock as well."""
    log, fanout, sink = told
    other = Sink()
    fanout.join(other)
    with fanout._tables():
        fanout.leave(sink)
        fanout.leave(sink)
    assert fanout.sinks == 1
    held = threading.Thread(target=lambda: fanout.leave(other))
    with fanout._tables():
        held.start()
        held.join(SECONDS)
        assert not held.is_alive()
    assert fanout.sinks == 0
    log.give(11)
    eventually(lambda: fanout.told == 11)
    assert sink.told == other.told == []


def test_an_event_is_read_once_for_all_who_iterate() -> None:
    with closing(Broker("memory://")) as broker, ExitStack() as stack:
        readers = [stack.enter_context(Reader(broker.subscribe("a"))) for _ in range(3)]
        eventually(lambda: broker.subscribers == 3)
        broker.publish("a", {"n": 1})
        for reader in readers:
            reader.has(1)
        assert len({id(reader.events[0]) for reader in readers}) == 1


def test_subscribers_are_counted_without_opening_anything(opened: Opener) -> None:
    broker = opened()
    opens = broker._open = Mock(wraps=broker._open)
    assert broker.subscribers == 0
    assert opens.call_count == 0
    with Reader(broker.subscribe("a", "b", below=["c", "d"])), Reader(broker.subscribe("a")):
        eventually(lambda: broker.subscribers == 2)
    assert broker.subscribers == 0


# Where a broker is.


@pytest.mark.parametrize(
    "url",
    [
        *("x", "memory", "http://host", "sqlite://path", "sqlite:path", "sqlite:///"),
        *("sqlite::memory:", "sqlite:///:memory:", "sqlite:///a?mode=ro", "sqlite:///a#b"),
        "postgres://u:secret@h/0",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no url of a broker: memory://, sqlite") as caught:
        Broker(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["keep", "keep_seconds", "max_event"])
def test_limits_are_above_zero(option: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Broker("memory://", **{option: 0})


def test_the_url_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENTO_BROKER_URL", "memory://")
    assert Broker().url == "memory://"
    assert Broker("redis://x").url == "redis://x"


@pytest.mark.parametrize("name", ["state", "a state ?#%41"])
def test_without_a_url_there_is_one_log_of_a_user_and_a_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.delenv("VENTO_BROKER_URL", raising=False)
    state, here, there = tmp_path / name, tmp_path / "here", tmp_path / "there"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    for directory in (here, there):
        directory.mkdir()
    monkeypatch.chdir(here)
    one, same = Broker(), Broker()
    monkeypatch.chdir(there)
    other = Broker()
    assert one.url == same.url != other.url
    with closing(one), closing(same):
        last = one.publish("a", "x")
        assert same.subscribe("a").last_id == last
    (file,) = (state / "vento_wsgi").glob("*.db")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_the_default_is_in_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VENTO_BROKER_URL", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    start = "sqlite:////home/somebody/.local/state/vento_wsgi/"
    assert re.fullmatch(f"{start}[0-9a-f]{{16}}\\.db", Broker().url)


def test_a_path_is_relative_after_three_slashes_and_absolute_after_four(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for url, file in [
        ("sqlite:///one.db", "one.db"),
        (f"sqlite:///{tmp_path}/two.db", "two.db"),
        ("sqlite:///th%20ree.db", "th ree.db"),
    ]:
        with closing(Broker(url)) as broker:
            broker.publish("a", "x")
        assert (tmp_path / file).exists()


def test_without_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vento_wsgi.broker.backends.redis.event_log", None)
    broker = Broker("redis://user:secret@host")
    with pytest.raises(BrokerError, match=r"pip install 'vento_wsgi\[redis\]'") as caught:
        broker.publish("a", "x")
    assert "secret" not in str(caught.value)


# Processes.

NOTHING = """
import sys
from vento_wsgi import Broker
brokers = [Broker(), Broker("memory://"), Broker("redis://nowhere.invalid")]
import os, threading
print(*(name for name in ("sqlite3", "redis", "gevent") if name in sys.modules))
assert threading.active_count() == 1 and not os.listdir(".")
"""


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    here = f"import os; os.chdir({str(tmp_path)!r})\n"
    assert run(here + NOTHING, PYTHONPATH=str(ROOT), XDG_STATE_HOME=str(tmp_path)) == "\n"


FORKED = """
import os, sys
from vento_wsgi.broker import Broker
broker = Broker(sys.argv[1])
broker.publish("a", "before")                   # as an application may at import
kept = broker.subscribe("a")
broker.publish("a", "parent")
assert next(kept).data == "parent"              # it has a fan-out, with a thread
pids = []
for number in range(2):
    if not (pid := os.fork()):
        from gevent import monkey; monkey.patch_all(ssl=False)
        import gevent
        with gevent.Timeout(60):
            subscription = broker.subscribe(f"child{number}")
            reader = gevent.spawn(next, subscription)
            gevent.sleep(0.01)
            broker.publish(f"child{number}", "x")
            assert reader.get().data == "x"
            broker.close()
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
broker.publish("a", "after")
assert next(kept).data == "after"
broker.close()
"""


@pytest.mark.filterwarnings("ignore")
def test_a_broker_of_before_a_fork_serves_all_of_the_family(opened: Opener) -> None:
    run(FORKED, opened.url)


def test_one_broker_can_be_used_by_many_threads_at_once(opened: Opener) -> None:
    broker = opened()
    opens = Mock(wraps=broker._open)
    broker._open = opens
    barrier = threading.Barrier(8)
    ids: list[str] = []

    def publish() -> None:
        barrier.wait()
        ids.extend(fill(broker, 20))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 160
    assert opens.call_count == 1
    fanouts = {broker._opened().told() for _ in range(3)}
    assert len(fanouts) == 1


def test_a_memory_log_is_of_one_broker_only() -> None:
    with closing(Broker("memory://")) as one, closing(Broker("memory://")) as two:
        last = one.publish("a", "x")
        two.publish("a", "y")
        assert next(two.subscribe("a", after=last)).event == "gap"
        assert isinstance(one._opened().log, Memory)


def test_a_subscriber_that_is_closed_while_it_catches_up_is_not_told(broker: Broker) -> None:
    start = broker.subscribe("a").last_id
    fill(broker, 3)
    subscription = broker.subscribe("a", after=start)
    assert take(subscription, 3) == texts(0, 3)
    subscription.close()
    assert list(subscription) == []
    assert sinks(broker) == 0
