"""Published events reach every client exactly once and in order, whichever process dies.

Real servers, real publishers, clients that do what EventSource does: a deploy, a worker that is
killed, a Redis that is killed, clients that lose their connections.
"""

import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.chromium import chromium
from support.listeners import TOPICS, Crowd, below
from support.logs import RedisServer, script
from support.servers import Running, serve

from vento_wsgi.broker.backends.event_log import Topics
from vento_wsgi.broker.backends.sqlite.event_log import SQLite

WORKERS = 4
CLIENTS = 200
EVENTS = 2000
DROPPED_EVENTS = 1200  # to clients that drop their connections
ALL = ("news", below("world"))
WINDOW = 0.3  # seconds over which a worker that stops ends its streams


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log' / 'news.db'}"


@contextmanager
def news(
    tmp: Path, url: str, server: str = "gunicorn-StreamWorker", workers: int = WORKERS
) -> Iterator[Running]:
    """The application, with all its workers up."""
    with serve(
        server,
        "apps.news:app",
        tmp=tmp,
        env={"VENTO_BROKER_URL": url, "VENTO_DRAIN_WINDOW": str(WINDOW)},
        options=[f"--workers={workers}"],
    ) as running:
        yield running


def children(running: Running) -> set[int]:
    listed = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
    return set(map(int, listed.split()))


def half_of_the_events(crowd: Crowd) -> None:
    """All listeners, and half of the events that they are to get."""
    crowd.come(CLIENTS // 2, *ALL)
    crowd.come(CLIENTS - CLIENTS // 2, *TOPICS)
    crowd.publish(EVENTS // 2)
    crowd.until(lambda: crowd.published > EVENTS // 4)


def publish_until_gone(crowd: Crowd, running: Running, workers: set[int]) -> None:
    """A few events at a time while `workers` are still there, and the rest."""
    next_at = 0.0
    while workers & children(running):
        if time.monotonic() > next_at and crowd.asked < EVENTS - 100:
            crowd.publish(4)
            next_at = time.monotonic() + 0.01
        crowd.turn()
    crowd.publish(EVENTS - crowd.asked)


def test_a_deploy_loses_nothing(tmp_path: Path, sqlite: str) -> None:
    with news(tmp_path, sqlite) as running, Crowd(running, sqlite) as crowd:
        half_of_the_events(crowd)
        old = children(running)
        os.kill(running.pid, signal.SIGHUP)
        publish_until_gone(crowd, running, old)
        crowd.finish()
        crowd.check()
        for listener in crowd.listeners:
            assert listener.workers[0] in old
            assert listener.workers[-1] not in old
        assert "Traceback" not in running.log()


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path, sqlite: str) -> None:
    with news(tmp_path, sqlite) as running, Crowd(running, sqlite) as crowd:
        half_of_the_events(crowd)
        served = Counter(listener.workers[0] for listener in crowd.listeners)
        victim = max(served, key=served.__getitem__)
        os.kill(victim, signal.SIGKILL)
        publish_until_gone(crowd, running, {victim})
        crowd.finish()
        crowd.check()
        for listener in crowd.listeners:
            came_back = len(listener.workers) > 1
            assert came_back is (listener.workers[0] == victim)


def test_a_redis_that_is_killed_loses_nothing(tmp_path: Path, redis: RedisServer) -> None:
    with news(tmp_path, redis.url) as running, Crowd(running, redis.url) as crowd:
        half_of_the_events(crowd)
        crowd.publish(EVENTS // 4)
        crowd.until(lambda: crowd.published > EVENTS // 2)
        redis.kill()
        crowd.publish(EVENTS - crowd.asked)
        redis.start()
        crowd.finish()
        crowd.check()


def test_a_log_whose_process_was_killed_in_a_checkpoint_has_everything(tmp_path: Path) -> None:
    path, done = tmp_path / "news.db", tmp_path / "done.db"
    spec = f"SQLite({str(path)!r}, 10_000, 60)"
    append = "for n in range(300): log.append('a', b'x' * 1000)"
    with script(spec, f"log = opened()\n{append}\nsaid('done')\nsys.stdin.read()") as child:
        assert child.said() == "done"
    # what is left when the process has written the first page, and not yet the others
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{done}{suffix}")
    with closing(sqlite3.connect(done)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert done.stat().st_size > 2 * path.stat().st_size
    with path.open("r+b") as file:
        file.write(done.read_bytes()[:4096])
    log = SQLite(path, 10_000, 60)
    try:
        assert len(log.read((0, 0), Topics(["a"]), 1000)) == 300
    finally:
        log.close()


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
@pytest.mark.parametrize("server", ["gunicorn-StreamWorker", "gunicorn-gevent"])
def test_clients_that_drop_at_random_miss_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, server: str, backend: str
) -> None:
    log = request.getfixturevalue(backend)
    url = log if isinstance(log, str) else log.url
    with (
        news(tmp_path, url, server, workers=2) as running,
        Crowd(running, url, seed=20) as crowd,
    ):
        for topics in (ALL, ("news",), (below("world"),), ("world/south", "news")):
            crowd.come(15, *topics)
        while crowd.asked < DROPPED_EVENTS:
            if crowd.listening > len(crowd.listeners) - 10 and crowd.asked - crowd.published < 20:
                for listener in crowd.random.sample(crowd.listeners, 6):
                    crowd.leave(listener, crowd.random.uniform(0, 0.02))
                crowd.publish(12)
            crowd.turn()
        crowd.finish()
        crowd.check()
        assert sum(len(listener.workers) for listener in crowd.listeners) > 300
        assert "Traceback" not in running.log()


def test_an_eventsource_of_a_browser_loses_nothing_in_a_deploy(tmp_path: Path, sqlite: str) -> None:
    with (
        chromium() as browser,
        news(tmp_path, sqlite, workers=2) as running,
        Crowd(running, sqlite, publishers=1) as crowd,
        browser.new_page() as page,
    ):
        page.goto(f"http://{running.host}:{running.port}/")
        page.wait_for_function("opened.length === 1")
        crowd.come(1, *ALL)
        crowd.publish(100)
        page.wait_for_function("seen.length > 50")
        old = children(running)
        os.kill(running.pid, signal.SIGHUP)
        while old & children(running):
            if crowd.asked < 500:
                crowd.publish(1)
            crowd.turn()
        crowd.publish(600 - crowd.asked)
        crowd.finish()
        crowd.check()
        due = [[told.id, told.data] for told in crowd.listeners[0].told]
        page.wait_for_function("count => seen.length >= count", arg=len(due))
        seen = page.evaluate("seen")
        assert (seen == due) is True, (len(seen), len(due))
        assert page.evaluate("opened.length") > 1
