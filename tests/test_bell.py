"""Bells: a ring is never missed, and wakes only the one who waits."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.threadpool import ThreadPool

from vento_wsgi.broker.bell import Bell, _OfGreenlets, _OfThreads

of_both = pytest.mark.parametrize("make", [_OfThreads, _OfGreenlets])
LONG = 60.0  # seconds: a test that waits for so long has failed


@of_both
def test_a_ring_before_the_wait_is_kept_once(make: Callable[[], Bell]) -> None:
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
