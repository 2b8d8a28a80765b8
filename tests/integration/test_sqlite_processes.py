"""One log in SQLite, and several processes that write to it at once."""

from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.logs import LONG, script, sqlite_journal, sqlite_source

from vento_wsgi.broker.backends.sqlite.event_log import SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "missing" / "log.db"


CREATE = """
said("ready")
input()
log = opened()
said(*[log.append("a", b"")[0] for _ in range(5)])
input()
log.close()
"""


def test_of_many_processes_that_find_no_log_one_makes_it(path: Path) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            children = [stack.enter_context(script(sqlite_source(path), CREATE)) for _ in range(5)]
            for child in children:
                assert child.said() == "ready"
            for child in children:
                child.tell()
            given = [int(word) for child in children for word in child.said().split()]
            assert sorted(given) == list(range(1, 26))
            for child in children:
                child.tell()
                child.ends()
        assert [file.name for file in path.parent.iterdir()] == ["log.db"]
        path.unlink()


BUSY = """
log = opened()
said("ready")
input()
for _ in range(400):
    log.append("a", bytes(16_000))
said("done")
log.close()
"""


def test_the_journal_is_bounded_however_busy_the_publishers_are(path: Path) -> None:
    # 3 processes write 20 MB without a pause, and the last one may look just before its entry
    most, entry = 2 * 1024 * 1024, 40_000
    limits = (
        "from vento_wsgi.broker.backends.sqlite import event_log as m\n"
        f"m.MAX_WAITING, m.MAX_JOURNAL = 500_000, {most}"
    )
    largest = 0
    with ExitStack() as stack:
        children = [
            stack.enter_context(script(sqlite_source(path), limits + BUSY)) for _ in range(3)
        ]
        for child in children:
            assert child.said() == "ready"
        for child in children:
            child.tell()
        while any(child.process.poll() is None for child in children):
            largest = max(largest, sqlite_journal(path))
        for child in children:
            assert child.said() == "done"
            child.ends()
    assert largest <= most + 3 * entry
    with closing(SQLite(path, 10_000, LONG)) as opened:
        assert opened.last()[0] == 1200
