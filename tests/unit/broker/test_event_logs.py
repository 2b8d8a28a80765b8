"""One suite for every kind of event log."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.logs import LONG, SECONDS, Following, RedisServer, held, script
from support.servers import eventually

from vento_wsgi.broker.backends.event_log import Entry, EventLog, Topics
from vento_wsgi.broker.backends.memory import Memory
from vento_wsgi.broker.backends.redis import event_log as redis
from vento_wsgi.broker.backends.redis.event_log import Redis
from vento_wsgi.broker.backends.sqlite import event_log as sqlite
from vento_wsgi.broker.backends.sqlite.event_log import SQLite
from vento_wsgi.exceptions import BrokerError

PROCESSES = ["sqlite", pytest.param("redis", marks=pytest.mark.redis)]
"""Those that several processes share."""

SLACK = 200
"""Entries that may be kept too many: Redis drops 100 at once, SQLite 64."""


@dataclass
class Opener:
    """Opens one log, as often as it is asked to, and closes all in the end."""

    kind: str
    where: str
    logs: list[EventLog] = field(default_factory=list)

    def source(self, count: int = 10_000, age: float = LONG) -> str:
        where = [repr(self.where)] if self.where else []
        return f"{self.kind}({', '.join([*where, str(count), str(age)])})"

    def __call__(self, count: int = 10_000, age: float = LONG) -> EventLog:
        kinds = {"Memory": Memory, "SQLite": SQLite, "Redis": Redis}
        log: EventLog = eval(self.source(count, age), dict(kinds))
        self.logs.append(log)
        return log


@pytest.fixture(params=["memory", *PROCESSES])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener("Memory", "")
    if request.param == "sqlite":
        opener = Opener("SQLite", str(tmp_path / "log"))
    elif request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        opener = Opener("Redis", f"{server.address}?name={tmp_path.name}")
    yield opener
    for log in opener.logs:
        log.close()


every_process = pytest.mark.parametrize("opened", PROCESSES, indirect=True)


def fill(log: EventLog, number: int, topic: str = "a") -> list[Entry]:
    """Publish `number` entries, numbered from 0."""
    made = [(topic, str(i).encode()) for i in range(number)]
    return [Entry(log.append(topic, block), topic, block) for topic, block in made]


# What is published.


def test_what_is_published_is_read_as_it_was_in_one_order(opened: Opener) -> None:
    log = opened()
    start = log.last()
    blocks = [b"", b"data: 1\n", bytes(range(256)), b"x" * 100_000]
    given = [
        Entry(log.append(topic, block), topic, block)
        for block in blocks
        for topic in ("a", "été/☂", "a b", "it's")
    ]
    assert log.read(start, Topics({entry.topic for entry in given}), 100) == given
    positions = [entry.position for entry in given]
    assert positions == sorted(set(positions))
    assert log.last() == positions[-1] > start


def test_a_position_has_an_id_that_a_client_can_send_back(opened: Opener) -> None:
    log = opened()
    positions = [log.last(), log.first(), *(entry.position for entry in fill(log, 3))]
    for position in positions:
        name = log.id(position)
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name
        assert 1 <= len(name) <= 64
        assert log.position(name) == position
    assert len({log.id(position) for position in positions}) == len(set(positions))


@pytest.mark.parametrize(
    "id",
    [
        *("", "-", "1", "x", "-1", "1-", "01-1", "1-01", "1--1", "1-1-1", "+1-1", "1-1 ", " 1-1"),
        *("1-1\n", "v-1", "vaaaaaaaa-1", "١-١", f"{2**64}-1", f"1-{2**64}", "9" * 5000),
    ],
)
def test_what_is_no_id_of_the_log_has_no_position(opened: Opener, id: str) -> None:
    assert opened().position(id) is None


@pytest.mark.parametrize("end", ["", "-", "-x", "-01", "--1", "-1-", "-1 ", "-²", "-" + "1" * 19])
def test_an_id_is_the_whole_of_it(opened: Opener, end: str) -> None:
    log = opened()
    start, _, _ = log.id(log.append("a", b"")).partition("-")
    if end != "-" + "1" * 19 or not isinstance(log, Redis):
        assert log.position(start + end) is None


# What is read.

TOPICS = ["a", "a/", "a/b", "a/b/c", "a0", "a.", "ab", "b", "A", "a/%", "a*", "a/*x"]


@pytest.mark.parametrize(
    ("names", "below", "expected"),
    [
        (["a"], [], ["a"]),
        (["a", "b", "none"], [], ["a", "b"]),
        ([], ["a"], ["a/", "a/b", "a/b/c", "a/%", "a/*x"]),
        (["ab"], ["a/b"], ["a/b/c", "ab"]),
        (["a/b"], ["a", "a/b"], ["a/", "a/b", "a/b/c", "a/%", "a/*x"]),
        (["*", "a*", "a/*", "a/%", "A"], [], ["A", "a/%", "a*"]),
        ([], [""], []),
        ([], [], []),
        ([f"no{i}" for i in range(3000)] + ["b"], [f"no{i}" for i in range(2000)], ["b"]),
    ],
)
def test_only_the_topics_asked_for_are_read(
    opened: Opener, names: list[str], below: list[str], expected: list[str]
) -> None:
    log = opened()
    start = log.last()
    for topic in TOPICS:
        log.append(topic, b"")
    assert [entry.topic for entry in log.read(start, Topics(names, below), 100)] == expected


def test_a_limit_takes_the_oldest_and_the_rest_is_read_from_there(opened: Opener) -> None:
    log = opened()
    start = log.last()
    given = fill(log, 10)
    assert log.read(start, Topics("a"), 4) == given[:4]
    assert log.read(given[3].position, Topics("a"), 100) == given[4:]
    assert log.read(given[-1].position, Topics("a"), 100) == []
    assert log.read(start, Topics("a"), 0) == []


def test_what_is_read_at_once_is_bounded_in_bytes(opened: Opener) -> None:
    log = opened()
    start = log.last()
    sizes = [10, 60_000, 10, 10, 300_000, 10, 70_000, 70_000]
    given = [Entry(log.append("a", b"x" * size), "a", b"x" * size) for size in sizes]
    log.append("b", b"x" * 500_000)  # of another topic: it is passed over
    given.append(Entry(log.append("a", b""), "a", b""))
    pages, after = [], start
    while page := log.read(after, Topics("a"), 100, 65_536):
        pages.append(page)
        after = page[-1].position
    assert [entry for page in pages for entry in page] == given
    assert [len(page) for page in pages] == [5, 2, 1, 1]
    assert log.read(start, Topics("a"), 100) == given


def test_a_reader_holds_little_of_a_large_log(opened: Opener) -> None:
    log = opened()
    start = log.last()
    for _ in range(300):
        log.append("a", b"x" * 65_536)
    log.read(start, Topics("a"), 200, 65_536)  # what is made once
    tracemalloc.start()
    try:
        page = log.read(start, Topics("a"), 200, 65_536)
        log.read(start, Topics("none"), 200, 65_536)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(page) == 1
    assert peak < 3_000_000, "of twenty million bytes"


def test_a_rare_topic_is_found_far_away(opened: Opener) -> None:
    log = opened()
    start = log.last()
    first = log.append("rare", b"")
    fill(log, 2500, "often")
    second = log.append("rare", b"")
    found = log.read(start, Topics(["rare"]), 2)
    assert [entry.position for entry in found] == [first, second]


# Who follows.


def test_a_follower_is_given_what_there_was_and_what_comes_once_and_in_order(
    opened: Opener,
) -> None:
    log = opened()
    before = fill(log, 5)
    with Following(opened.logs[0], before[1].position) as following:
        following.reached(before[-1].position)
        after = fill(log, 100)
        following.reached(after[-1].position)
        assert following.entries == before[2:] + after


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers that would not look by themselves in the time of a test: they have to be told."""
    monkeypatch.setattr(sqlite, "POLL", 10 * SECONDS)
    monkeypatch.setattr(redis, "BLOCK", 10 * SECONDS)


@pytest.mark.usefixtures("told")
def test_a_follower_is_woken_when_something_comes(opened: Opener) -> None:
    log = opened()
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b""))
        for _ in range(10):
            time.sleep(0.02)  # it waits again
            following.reached(log.append("a", b""))


@pytest.mark.usefixtures("told")
def test_closing_ends_every_follower_at_once(opened: Opener) -> None:
    log = opened()
    with Following(log, log.last()) as one, Following(log, log.last()) as other:
        position = log.append("a", b"")
        one.reached(position)
        other.reached(position)
        time.sleep(0.05)
        log.close()
        one.thread.join(SECONDS)
        other.thread.join(SECONDS)
        assert not one.thread.is_alive()
        assert not other.thread.is_alive()
    assert list(log.follow(position)) == []


def test_a_follower_may_leave_and_the_log_goes_on(opened: Opener) -> None:
    log = opened()
    start = log.last()
    given = fill(log, 3)
    for _ in range(2):
        following = log.follow(start)
        assert next(following) == given
        following.close()  # type: ignore[attr-defined]
    assert log.append("a", b"") > given[-1].position


def test_a_log_that_is_closed_says_so(opened: Opener) -> None:
    log = opened()
    position = log.append("a", b"")
    for _ in range(2):
        log.close()
    with pytest.raises(BrokerError, match="closed"):
        log.append("a", b"")
    with pytest.raises(BrokerError, match="closed"):
        log.last()
    with pytest.raises(BrokerError, match="closed"):
        log.read(position, Topics("a"), 1)


def test_batches_are_bounded(opened: Opener) -> None:
    log = opened()
    start = log.last()
    last = fill(log, 2100)[-1].position
    with Following(log, start) as following:
        following.reached(last)
        assert max(following.batches) <= 1000
        assert len(following.entries) == 2100


def test_of_several_publishers_at_once_everything_comes_once_and_in_one_order(
    opened: Opener,
) -> None:
    log = opened()
    given: list[list[Entry]] = [[] for _ in range(4)]

    def publish(number: int) -> None:
        given[number] = fill(log, 100, str(number))

    with Following(log, log.last()) as following:
        threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        following.reached(max(entries[-1].position for entries in given))
        assert following.entries == sorted(entry for entries in given for entry in entries)
        assert len(following.entries) == 400


def test_nothing_is_left_when_a_log_is_closed(opened: Opener) -> None:
    opened().append("a", b"")
    opened.logs[0].close()
    before, threads = held(), threading.active_count()
    log = opened()
    with Following(log, log.last()) as following:
        following.reached(fill(log, 600)[-1].position)  # with a checkpoint
        assert opened.kind == "Memory" or held() > before
    assert held() == before
    assert threading.active_count() == threads


# What is kept.


def test_the_newest_are_kept_and_what_is_lost_is_said(opened: Opener) -> None:
    log = opened(count=300)
    start = log.last()
    assert log.first() == start
    assert not log.lost(start)
    given = fill(log, 2000)
    kept = log.read(start, Topics("a"), 5000)
    assert 300 <= len(kept) <= 300 + SLACK
    assert kept == given[-len(kept) :]
    dropped = given[: -len(kept)]
    assert log.lost(start)
    assert log.lost(given[0].position)
    assert log.lost(dropped[-2].position)
    assert dropped[-2].position < log.first() < kept[0].position
    assert not log.lost(log.first())
    assert not log.lost(kept[0].position)
    assert not log.lost(log.last())
    assert log.last() == given[-1].position
    with Following(log, start) as following:
        following.reached(given[-1].position)
        assert following.entries == kept


def test_a_log_never_goes_back(opened: Opener) -> None:
    log = opened()
    position = log.append("a", b"")
    later = (position[0] + 1, 0) if isinstance(position, tuple) else position + 1
    assert not log.lost(position)
    assert log.lost(later)


def test_what_is_too_old_is_dropped(opened: Opener) -> None:
    log = opened(age=0.3)
    old = fill(log, 150)
    time.sleep(0.4)
    new = fill(log, 150)
    kept = log.read(log.first(), Topics("a"), 1000)
    assert kept[-1] == new[-1]
    assert kept == (old + new)[-len(kept) :]
    assert len(kept) < 300
    assert log.lost(old[0].position)


def test_nothing_is_dropped_that_is_to_be_kept(opened: Opener) -> None:
    log = opened(count=500)
    start = log.last()
    given = fill(log, 500)
    assert not log.lost(start)
    assert log.read(start, Topics("a"), 1000) == given


# Several processes.

PUBLISH = """
log = opened()
said("ready")
name = input()
for i in range(200):
    log.append(name, b"%d" % i)
said("done")
log.close()
"""
FOLLOW = """
log = opened()
ids = []
start = log.last()
said("ready")
for entries in log.follow(start):
    ids += (log.id(entry.position) for entry in entries)
    if len(ids) >= 600:
        break
said(*ids)
log.close()
"""


@every_process
def test_what_several_processes_publish_comes_to_every_process_once_and_in_one_order(
    opened: Opener,
) -> None:
    log = opened()
    start = log.last()
    with ExitStack() as stack:
        follower = stack.enter_context(script(opened.source(), FOLLOW))
        assert follower.said() == "ready"
        publishers = [stack.enter_context(script(opened.source(), PUBLISH)) for _ in range(3)]
        following = stack.enter_context(Following(log, start))
        for publisher in publishers:
            assert publisher.said() == "ready"
        for number, publisher in enumerate(publishers):
            publisher.tell(str(number))
        for publisher in publishers:
            assert publisher.said() == "done"
            publisher.ends()
        eventually(lambda: len(following.entries) >= 600, SECONDS)
        assert follower.said().split() == [log.id(e.position) for e in following.entries]
        for number in range(3):
            mine = [entry.block for entry in following.entries if entry.topic == str(number)]
            assert mine == [b"%d" % i for i in range(200)]
        assert log.read(start, Topics("012"), 1000) == following.entries


ANSWER = """
log = opened()
start = log.last()
said("ready")
for name, limit in (("sqlite", "POLL"), ("redis", "BLOCK")):  # it has to be told
    if module := sys.modules.get(f"vento_wsgi.broker.backends.{name}.event_log"):
        setattr(module, limit, 300)
for entries in log.follow(start):
    for entry in entries:
        if entry.topic == "ask":
            log.append("answer", entry.block)
"""


@every_process
@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("patched", [False, True])
def test_a_follower_is_woken_by_another_process(opened: Opener, patched: bool) -> None:
    log = opened()
    with script(opened.source(), ANSWER, patched=patched) as child:
        assert child.said() == "ready"
        with Following(log, log.last()) as following:
            for i in range(10):
                time.sleep(0.02)
                log.append("ask", b"%d" % i)
                eventually(lambda: following.blocks[-2:] == [b"%d" % i] * 2)  # noqa: B023


PRELOADED = """
log = opened()
before = log.append("before", b"")
followed = log.follow(before)
said("parent", log.id(log.append("parent", b"")))
pids = []
for number in range(2):
    pid = os.fork()
    if not pid:
        from gevent import monkey; monkey.patch_all(ssl=False)  # redis has imported it
        import gevent
        got = []
        position = log.last()
        def follow():
            for entries in log.follow(position):
                got.extend(entry.topic for entry in entries)
        greenlet = gevent.spawn(follow)
        gevent.sleep(0.2)
        for i in range(3):
            log.append(f"child{number}", b"")
        with gevent.Timeout(20):
            while got.count(f"child{number}") < 3:
                gevent.sleep(0.01)
        assert not log.lost(position)
        log.close()
        with gevent.Timeout(20):
            greenlet.join()
        said("child", number)
        os._exit(0)
    pids.append(pid)
log.append("parent", b"")
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
entries = log.read(before, Topics(["parent", "child0", "child1"]), 100)
said(*sorted(entry.topic for entry in entries))
log.close()
"""


def test_a_log_that_was_made_before_a_fork_serves_all_of_the_family(opened: Opener) -> None:
    with script(opened.source(), PRELOADED) as child:
        assert child.said().startswith("parent ")
        assert {child.said(), child.said()} == {"child 0", "child 1"}
        shared = opened.kind != "Memory"
        assert child.said() == " ".join(
            ["child0"] * 3 * shared + ["child1"] * 3 * shared + ["parent"] * 2
        )
        child.ends()


THREADS = """
from gevent import spawn, sleep
log = opened()
beats, got = [], []
def beat():
    while True:
        sleep(0.001)
        beats.append(1)
def follow():
    for entries in log.follow(0 if "Memory" in sys.argv[1] else (0, 0)):
        got.extend(entries)
def publish():
    for i in range(300):
        log.append("a", b"x" * 100)
        sleep(0)
beating = spawn(beat)
following = spawn(follow)
while len(beats) < 100:  # minutes, if the one who waits kept the others from their turn
    sleep(0.01)
publishing = [spawn(publish) for _ in range(4)]
for each in publishing:
    each.join()
while len(got) < 1200:
    sleep(0.01)
assert [entry.position for entry in got] == sorted({entry.position for entry in got})
said("well")
log.close()
following.join(30)
assert following.dead
beating.kill()
"""


def test_under_gevent_the_others_have_their_turn_meanwhile(opened: Opener) -> None:
    with script(opened.source(), THREADS, patched=True) as child:
        assert child.said() == "well"
        child.ends()


def test_redis_is_imported_where_a_redis_is_opened_only() -> None:
    with script("Memory", "said('redis' in sys.modules)") as child:
        assert child.said() == "False"
        child.ends()
