"""Bells: a ring is never missed, and wakes only the one who waits."""

import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from vento_wsgi.broker.wake_event import WakeEvent, _OfGreenlets, _OfThreads

of_both = pytest.mark.parametrize("make", [_OfThreads, _OfGreenlets])
LONG = 30.0  # seconds: a test that waits for so long has failed
ROUNDS = 3000  # of a waiter and a native thread: a race that is there shows within some hundreds

Thread: Any = get_original("threading", "Thread")
Lock: Any = get_original("threading", "Lock")


@pytest.fixture
def switching() -> Iterator[None]:
    """Native threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@of_both
def test_a_ring_before_the_wait_is_kept_once(make: Callable[[], WakeEvent]) -> None:
    bell = make()
    bell.ring()
    bell.ring()
    start = monotonic()
    bell.wait(LONG)
    assert monotonic() - start < LONG / 2
    start = monotonic()
    bell.wait(0.05)
    assert monotonic() - start > 0.02, "and not twice"


@pytest.mark.parametrize("seconds", [None, LONG])
def test_one_who_waits_is_woken(seconds: float | None) -> None:
    bell, woken = _OfGreenlets(), []

    def wait() -> None:
        for n in range(3):
            bell.wait(seconds)
            woken.append(n)

    waiting = gevent.spawn(wait)
    for n in range(3):
        gevent.sleep(0)
        assert len(woken) == n
        bell.ring()
        gevent.sleep(0)
    waiting.join(LONG)
    assert woken == [0, 1, 2]


def test_one_who_waits_is_woken_from_another_thread() -> None:
    bell = _OfGreenlets()
    waiting = gevent.spawn(bell.wait, LONG)
    gevent.sleep(0)
    pool = ThreadPool(1)
    try:
        pool.spawn(bell.ring).get()
        waiting.get(timeout=LONG / 2)
    finally:
        pool.kill()


def test_a_ring_for_one_who_was_thrown_out_wakes_nobody_else() -> None:
    """The greenlet goes on to wait for something else, when the loop comes to the ring."""
    bell = _OfGreenlets()
    came: list[str] = []

    def wait() -> None:
        try:
            bell.wait(None)
        except gevent.Timeout:
            came.append("thrown out")
        get_hub().wait(get_hub().loop.timer(0.05))
        came.append("waited for something else")

    waiting: Any = gevent.spawn(wait)
    gevent.sleep(0)
    waiting.kill(gevent.Timeout(), block=False)
    bell.ring()
    gevent.sleep(0)
    assert came == ["thrown out"]
    waiting.get(timeout=LONG)
    assert came[1:] == ["waited for something else"]
    bell.wait(LONG)  # the ring is kept


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("seconds", [None, 2 * LONG])
def test_no_ring_from_a_native_thread_is_lost(seconds: float | None) -> None:
    """The thread rings at any moment of the wait: before it, within it, and just after it."""
    bell, turn = _OfGreenlets(), Lock()
    turn.acquire()
    put: list[int] = []

    def ring() -> None:
        for n in range(ROUNDS):
            put.append(n)
            bell.ring()
            turn.acquire()  # until it was heard

    thread = Thread(target=ring, daemon=True)
    thread.start()
    with gevent.Timeout(LONG, AssertionError("a ring was lost")):
        for n in range(ROUNDS):
            while not put:
                bell.wait(seconds)
            assert put.pop() == n
            turn.release()
    thread.join()


@pytest.mark.usefixtures("switching")
def test_rings_from_many_native_threads_wake_after_the_last() -> None:
    """What was put before a ring is seen after a wait: the last of many as well."""
    bell = _OfGreenlets()
    put: list[int] = []

    def ring() -> None:
        for n in range(ROUNDS):
            put.append(n)
            bell.ring()

    threads = [Thread(target=ring, daemon=True) for _ in range(4)]
    with gevent.Timeout(LONG, AssertionError("a ring was lost")):
        for thread in threads:
            thread.start()
        while len(put) < 4 * ROUNDS:
            bell.wait(None)
    for thread in threads:
        thread.join()


def test_a_ring_from_a_native_thread_makes_no_hub_there() -> None:
    from gevent._hub_local import get_hub_if_exists

    bell, hubs = _OfGreenlets(), []

    def ring() -> None:
        bell.ring()
        hubs.append(get_hub_if_exists())

    waiting = gevent.spawn(bell.wait, LONG)
    gevent.sleep(0)
    thread = Thread(target=ring)
    thread.start()
    waiting.get(timeout=LONG)
    thread.join()
    assert hubs == [None]


def test_a_ring_for_a_waiter_whose_hub_is_gone_does_nothing() -> None:
    bell = _OfGreenlets()

    def wait_and_end() -> None:
        hub = get_hub()
        gevent.spawn(bell.wait, None)
        gevent.sleep(0)
        hub.destroy(destroy_loop=True)

    thread = Thread(target=wait_and_end)
    thread.start()
    thread.join()
    bell.ring()
    bell.wait(LONG)  # the ring is kept
