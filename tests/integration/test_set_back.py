"""A log that has lost its newest events sends a gap to the clients that had them.

The numbers of lost events are given again to others. A client that comes back with the id of a
lost event gets a gap; one that comes back with the id of an event that is still there gets what
came later, without a gap.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.logs import SECONDS, Child, script
from support.servers import eventually

from vento_wsgi import Broker
from vento_wsgi.exceptions import BrokerError

END = "end"

PUBLISHER = """
from vento_wsgi import Broker
broker = Broker(sys.argv[1])
for line in sys.stdin:
    said(broker.publish("a", line.strip()))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return tmp_path / "older.db"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def publish(path: Path, *texts: str) -> list[str]:
    """Publish in a process of its own, which closes the log; the ids."""
    with closing(Broker(url(path))) as broker:
        return [broker.publish("a", text) for text in texts]


def tell(child: Child, *texts: str) -> list[str]:
    ids = []
    for text in texts:
        child.tell(text)
        ids.append(child.said())
    return ids


def later(broker: Broker, after: str) -> list[str]:
    """What a client that comes back with `after` is given of what there is."""
    given: list[str] = []
    with closing(broker.subscribe("a", after=after)) as events:
        end = broker.publish("a", END)
        for event in events:
            if event.id == end:
                return given
            if event.data != END:
                given.append("gap" if event.event == "gap" else str(event.data).strip("."))
    raise AssertionError(given)


def kill(child: Child) -> None:
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()


# While nobody has it open.


def remove_journal(path: Path, _: Path) -> None:
    os.unlink(f"{path}-wal")
    os.unlink(f"{path}-shm")


def remove_journal_alone(path: Path, _: Path) -> None:
    os.unlink(f"{path}-wal")


def cut_journal(path: Path, _: Path) -> None:
    os.truncate(f"{path}-wal", os.stat(f"{path}-wal").st_size * 2 // 3)


def damage_journal(path: Path, _: Path) -> None:
    with open(f"{path}-wal", "r+b") as file:
        file.seek(-10_000, os.SEEK_END)
        file.write(bytes(5_000))


def move_older(path: Path, older: Path) -> None:
    remove_journal(path, older)
    os.rename(older, path)


def move_older_beside_the_journal(path: Path, older: Path) -> None:
    os.rename(older, path)


def overwrite(path: Path, older: Path) -> None:
    remove_journal(path, older)
    path.write_bytes(older.read_bytes())


def overwrite_beside_the_journal(path: Path, older: Path) -> None:
    path.write_bytes(older.read_bytes())


AWAY = [
    remove_journal,
    remove_journal_alone,
    cut_journal,
    damage_journal,
    move_older,
    move_older_beside_the_journal,
    overwrite,
    overwrite_beside_the_journal,
]


BESIDE = [move_older_beside_the_journal, overwrite_beside_the_journal]
"""With a small log the journal has all of it, and nothing is lost."""


@pytest.mark.parametrize("size", [0, 3000])
@pytest.mark.parametrize("again", [1, 12], ids=lambda number: f"{number} again")
@pytest.mark.parametrize("set_back", AWAY)
def test_a_client_that_had_what_is_lost_is_told(
    path: Path, older: Path, set_back: Callable[[Path, Path], None], again: int, size: int
) -> None:
    fill = "." * size  # one event a page makes journal and file disagree on more of them
    kept = publish(path, *(f"kept {n}{fill}" for n in range(5)))
    shutil.copy(path, older)
    # and a checkpoint at its end
    between = publish(path, *(f"between {n}{fill}" for n in range(30)))
    with script(url(path), PUBLISHER) as child:
        lost = tell(child, *(f"lost {n}{fill}" for n in range(10)))
        kill(child)
    set_back(path, older)
    with closing(Broker(url(path))) as broker:
        if set_back in BESIDE and size:  # the pages of two histories make no database
            with pytest.raises(BrokerError, match=r"damaged.* move it away, together with .*-wal"):
                broker.publish("a", "")
            os.rename(path, older)
        new = [f"new {n}" for n in range(again)]
        given = [broker.publish("a", text) for text in new]
        assert not {*kept, *between, *lost} & {*given}
        had = [*(f"between {n}" for n in range(30)), *(f"lost {n}" for n in range(10))]
        for number, had_id in enumerate([kept[-1], *between, *lost]):
            got = later(broker, had_id)
            if "gap" not in got:  # it is still there, and so is what came next, up to the loss
                still = len(got) - again
                assert got == had[number : number + still] + new
                assert (set_back in BESIDE and not size) or len(had) > number + still
        if set_back not in BESIDE or size:
            assert later(broker, lost[-1])[0] == "gap"


def test_an_event_that_is_still_there_is_no_reason_for_a_gap(path: Path, older: Path) -> None:
    kept = publish(path, "1", "2")
    shutil.copy(path, older)
    publish(path, "3")
    os.rename(older, path)
    with closing(Broker(url(path))) as broker:
        broker.publish("a", "new")
        assert later(broker, kept[0]) == ["2", "new"]
        assert later(broker, kept[1]) == ["new"]


def test_a_copy_that_was_made_while_the_log_was_in_use_goes_its_own_way(
    path: Path, older: Path
) -> None:
    kept = publish(path, "1")
    with closing(Broker(url(path))) as broker:
        both = broker.publish("a", "2")
        shutil.copy(path, older)  # without its journal
        with closing(Broker(url(older))) as copy:
            other = copy.publish("a", "other")
            assert later(copy, kept[0])[0] == "other"
            assert later(copy, both)[0] == "gap"
            assert later(broker, other)[0] == "gap"
            assert later(broker, kept[0])[0] == "2"


# What is no loss.


def test_a_writer_that_is_killed_makes_no_gap(path: Path) -> None:
    ids = []
    for number in range(3):
        with script(url(path), PUBLISHER) as child:
            ids += tell(child, f"{number}")
            kill(child)
    with closing(Broker(url(path))) as broker:
        assert later(broker, ids[0]) == ["1", "2"]
        with script(url(path), PUBLISHER) as child:
            ids += tell(child, "3")
            kill(child)
        assert later(broker, ids[2]) == ["3"]


def test_a_log_that_is_closed_and_opened_again_makes_no_gap(path: Path) -> None:
    ids = [publish(path, f"{number}")[0] for number in range(5)]
    with closing(Broker(url(path))) as broker:
        for number, had_id in enumerate(ids):
            assert later(broker, had_id) == [f"{n}" for n in range(number + 1, 5)]


def test_a_log_that_is_copied_whole_makes_no_gap(path: Path, tmp_path: Path) -> None:
    with script(url(path), PUBLISHER) as child:
        ids = tell(child, "1", "2", "3")
        kill(child)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", elsewhere)
    with closing(Broker(url(elsewhere / path.name))) as broker:
        assert later(broker, ids[0]) == ["2", "3"]


# While processes have it open.


class Listening:
    """A client of one process: it takes what it is given, and comes back when it is sent away."""

    def __init__(self, broker: Broker) -> None:
        self.given: list[str] = []
        self._broker = broker
        self._events = broker.subscribe("a")
        self._closed = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            try:
                for event in self._events:
                    self.given.append(event.event or str(event.data).strip("."))
                return
            except BrokerError:  # noqa: PERF203
                self._events = self._broker.subscribe("a", after=self._events.last_id)

    def close(self) -> None:
        self._closed = True
        self._events.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


FOLLOWER = """
from vento_wsgi import Broker
from vento_wsgi.exceptions import BrokerError
broker = Broker(sys.argv[1])
events = broker.subscribe("a")
said("ready")
while True:
    try:
        for event in events:
            said(event.event or "message", str(event.data).strip("."))
    except BrokerError:
        events = broker.subscribe("a", after=events.last_id)
"""


@pytest.fixture
def running(path: Path) -> Iterator[tuple[Broker, Listening, Child, Child]]:
    """A process with a client, another process with a client, and one that publishes."""
    with (
        closing(Broker(url(path))) as broker,
        closing(Listening(broker)) as listening,
        script(url(path), FOLLOWER) as follower,
        script(url(path), PUBLISHER) as publisher,
    ):
        assert follower.said() == "ready"
        yield broker, listening, follower, publisher


def move_older_and_remove_the_journal(path: Path, older: Path) -> None:
    os.rename(older, path)
    remove_journal(path, older)


RUNNING = [
    move_older_beside_the_journal,
    move_older_and_remove_the_journal,
    move_older,
    overwrite,
]


@pytest.mark.parametrize("replace", RUNNING)
@pytest.mark.parametrize("again", [1, 12])
def test_clients_of_running_processes_are_told(
    path: Path,
    older: Path,
    replace: Callable[[Path, Path], None],
    again: int,
    running: tuple[Broker, Listening, Child, Child],
) -> None:
    broker, listening, follower, publisher = running
    fill = "." * 3000
    kept = tell(publisher, f"kept{fill}", f"kept too{fill}")
    checkpoint(path)
    shutil.copy(path, older)
    lost = tell(publisher, *(f"lost {n}{fill}" for n in range(50)))
    checkpoint(path)
    lost += tell(publisher, *(f"lost {n}{fill}" for n in range(50, 59)))
    eventually(lambda: listening.given[-1:] == ["lost 58"], SECONDS)
    while follower.said() != "message lost 58":
        pass
    replace(path, older)
    tell(publisher, *(f"new {n}" for n in range(again)))
    eventually(lambda: "gap" in listening.given, SECONDS, lambda: f"{listening.given}")
    while not follower.said().startswith("gap"):
        pass
    assert later(broker, lost[-1])[0] == "gap"
    assert later(broker, kept[0])[0] == "kept too"
    tell(publisher, "last")
    eventually(lambda: listening.given[-1:] == ["last"], SECONDS)
    while follower.said() != "message last":
        pass


def checkpoint(path: Path) -> None:
    import sqlite3

    with closing(sqlite3.connect(path, timeout=SECONDS)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
