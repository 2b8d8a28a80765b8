"""Turns: a source with much to send does not block the loop for others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import Any

import gevent
import pytest
from gevent.socket import wait_read

from vento_wsgi.streaming.turns import MAX_SLICE, turns

MANY = 100


def on_its_own(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a thread of its own: others have left greenlets in the hub of pytest's."""

    @wraps(test)
    def run(**arguments: Any) -> None:
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                test(**arguments)
            except BaseException as error:
                errors.append(error)
            finally:
                gevent.get_hub().destroy(destroy_loop=True)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        for error in errors:
            raise error

    return run


def work() -> None:
    until = perf_counter() + MAX_SLICE / 5
    while perf_counter() < until:
        pass


def crowd(each: Callable[[], Any]) -> list[Any]:
    return [gevent.spawn(each) for _ in range(MANY)]


@on_its_own
def test_a_socket_is_served_before_all_who_have_much_to_do_had_their_turn() -> None:
    done: list[str] = []
    ours, theirs = socket.socketpair()

    def busy() -> None:
        for _ in range(3):
            turns().pause()
            work()
            done.append("work")

    def short() -> None:
        wait_read(ours.fileno())
        done.append("read")

    with ours, theirs:
        reader = gevent.spawn(short)
        workers = crowd(busy)
        theirs.send(b"!")
        gevent.joinall([reader, *workers], timeout=60, raise_error=True)
    assert done.count("work") == 3 * MANY
    assert done.index("read") < MANY


@on_its_own
def test_they_go_on_in_the_order_in_which_they_came() -> None:
    order: list[int] = []

    def waits(number: int) -> None:
        turns().wait()
        work()
        order.append(number)

    gevent.joinall([gevent.spawn(waits, n) for n in range(MANY)], timeout=60, raise_error=True)
    assert order == list(range(MANY))


@on_its_own
def test_one_that_is_killed_while_it_waits_holds_up_nobody() -> None:
    done: list[int] = []

    def waits(number: int) -> None:
        turns().wait()
        work()
        done.append(number)

    greenlets = [gevent.spawn(waits, n) for n in range(MANY)]
    gevent.sleep(0)
    for number in (0, 1, MANY // 2, MANY - 1):
        greenlets[number].kill()
    gevent.joinall(greenlets, timeout=60)
    assert len(done) >= MANY - 4
    assert len(turns()._waiting) == 0


@on_its_own
def test_one_that_ends_another_in_its_turn_does_not_stop_the_queue() -> None:
    done: list[str] = []
    greenlets: list[Any] = []

    def first() -> None:
        turns().wait()
        greenlets[1].kill(block=False)
        turns().wait()
        done.append("first")

    def other() -> None:
        turns().wait()
        work()
        done.append("other")

    greenlets += [gevent.spawn(first), *(gevent.spawn(other) for _ in range(3))]
    gevent.joinall(greenlets, timeout=60)
    assert done.count("first") == 1
    assert done.count("other") >= 2


@pytest.mark.parametrize("error", [RuntimeError, gevent.GreenletExit])
@on_its_own
def test_an_error_in_a_turn_does_not_stop_the_queue(error: type[BaseException]) -> None:
    done: list[str] = []

    def fails() -> None:
        turns().wait()
        raise error

    def other() -> None:
        turns().wait()
        done.append("other")

    failing = gevent.spawn(fails)
    failing.link_exception(lambda _: None)
    others = [gevent.spawn(other) for _ in range(3)]
    gevent.joinall([failing, *others], timeout=60)
    assert done == ["other"] * 3
