"""The pumps: order kept, nothing lost, an end for every state.

A greenlet's writer runs in a greenlet here, as it does in a server; the sources wait with
gevent's own functions, so nothing has to be patched.
"""

import contextvars
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import gevent
import pytest
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from support.in_process import until

from vento_wsgi.streaming import greenlet_pump as greenlets
from vento_wsgi.streaming.greenlet_pump import MAX_SOURCES, GreenletPump
from vento_wsgi.streaming.pumps import MAX_BUFFER, InlinePump, Pump, ThreadPump, cooperative
from vento_wsgi.streaming.turns import MAX_SLICE

T = TypeVar("T")
Make = Callable[[Iterator[bytes]], Pump]


def nothing() -> None:
    return


P = TypeVar("P", GreenletPump, ThreadPump)


def flowing(pump: P, *, each: bool) -> P:
    pump.flow(lambda: True, each=each)
    return pump


def beside(chunks: Iterator[bytes], *, each: bool = False) -> GreenletPump:
    return flowing(GreenletPump(chunks), each=each)


def threaded(chunks: Iterator[bytes], *, each: bool = False) -> ThreadPump:
    return flowing(ThreadPump(chunks), each=each)


of_each = pytest.mark.parametrize("make", [beside, ThreadPump, InlinePump])
of_both = pytest.mark.parametrize("make", [beside, ThreadPump])


def server(serve: Callable[[], T]) -> T:
    """Run `serve` in a greenlet, as a server does, while the loop goes on."""
    greenlet: Any = gevent.spawn(serve)
    try:
        result: T = greenlet.get(timeout=60)
    finally:
        greenlet.kill()
    return result


def all_of(pump: Pump) -> list[bytes]:
    """What is taken up to the end of the source."""
    return list(pieces(pump))


def pieces(pump: Pump) -> Iterator[bytes]:
    with suppress(StopIteration):
        while True:
            yield pump.take()


class Source:
    """A source that notes how it ended, and when it was closed."""

    def __init__(self, items: Callable[[], Iterator[bytes]]) -> None:
        self.left: list[str] = []
        self.closed = 0
        self.chunks = self._run(items)

    def _run(self, items: Callable[[], Iterator[bytes]]) -> Generator[bytes, None, None]:
        try:
            yield from items()
        except BaseException as error:
            self.left.append(type(error).__name__)
            raise
        else:
            self.left.append("end")

    def close(self) -> None:
        self.closed += 1
        self.chunks.close()


# What all pumps have in common.


@of_each
def test_the_chunks_come_in_order_and_then_the_end(make: Make) -> None:
    chunks = [b"%d," % number for number in range(100)]

    def serve() -> None:
        pump = make(iter(chunks))
        assert b"".join(all_of(pump)) == b"".join(chunks)
        pump.stop(nothing)

    server(serve)


@of_each
def test_an_error_comes_after_the_last_chunk(make: Make) -> None:
    def items() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("two")

    def serve() -> None:
        pump = make(items())
        assert pump.take() == b"one"
        assert not pump.exhausted
        with pytest.raises(ValueError, match="two"):
            pump.take()
        pump.stop(nothing)

    server(serve)


@of_both
def test_an_end_that_is_known_is_the_end(make: Make) -> None:
    def serve() -> None:
        pump = make(iter([b"one"]))
        known = [pump.exhausted]
        assert pump.take() == b"one"
        with pytest.raises(StopIteration):
            pump.take()
        assert [*known, pump.exhausted] == [False, True]
        pump.stop(nothing)

    server(serve)


@of_each
def test_a_source_that_was_never_started_is_only_closed(make: Make) -> None:
    source = Source(lambda: iter([b"one"]))

    def serve() -> None:
        make(source.chunks).stop(source.close)

    server(serve)
    assert source.closed == 1
    assert source.left == []


place = contextvars.ContextVar("place", default="nowhere")


@of_each
def test_a_source_has_the_context_in_which_its_pump_was_made(make: Make) -> None:
    def items() -> Iterator[bytes]:
        token = place.set(f"source in {place.get()}")
        try:
            yield place.get().encode()
            yield place.get().encode()
        finally:
            place.reset(token)

    def serve(name: str) -> None:
        place.set(name)
        pump = make(items())
        assert b"".join(all_of(pump)) == 2 * f"source in {name}".encode()
        pump.stop(nothing)
        assert place.get() == name

    for name in ("here", "there"):  # the second time perhaps in the greenlet of the first
        server(lambda name=name: serve(name))  # type: ignore[misc]
    assert place.get() == "nowhere"


@of_both
@pytest.mark.parametrize("blocked", [False, True])
def test_the_finally_block_of_a_source_runs_in_its_own_context(make: Make, blocked: bool) -> None:
    left: list[str] = []
    blocks: Any = Event() if make is beside else threading.Event()

    def items() -> Iterator[bytes]:
        token = place.set("the source")
        try:
            yield bytes(MAX_BUFFER)
            if blocked:
                blocks.wait()
            yield bytes(MAX_BUFFER)
            yield b""
        finally:
            place.reset(token)
            left.append(place.get())

    def serve() -> None:
        place.set("the handler")
        chunks = items()
        pump = make(chunks)
        pump.take()
        pump.stop(chunks.close)  # type: ignore[attr-defined]

    server(serve)
    blocks.set()
    until(lambda: left != [])
    assert left == ["the handler"]


def test_a_source_is_closed_though_its_thread_is_still_busy_with_its_end() -> None:
    taken, stopped = threading.Event(), threading.Event()

    class Last(bytes):
        def __del__(self) -> None:  # the thread drops it on its way out
            if pump.exhausted:
                stopped.wait(10)

    def items() -> Iterator[bytes]:
        yield Last(b"one")
        taken.wait(10)

    source = Source(items)
    pump = threaded(source.chunks)
    try:
        assert pump.take() == b"one"
        taken.set()
        assert all_of(pump) == []
        pump.stop(source.close)
    finally:
        stopped.set()
    assert source.closed == 1


# Whatever a source does and a writer does meanwhile.


@dataclass
class Schedule:
    """What a source does (chunks to make, None to wait), how it ends, and what its writer does."""

    steps: list[int | None]
    fails: bool
    pauses: list[int]
    wakes: int
    stops_after: int | None


SIZES = st.sampled_from([1, 10, 1000, MAX_BUFFER // 2, MAX_BUFFER + 1])
schedules = st.builds(
    Schedule,
    steps=st.lists(st.one_of(SIZES, SIZES, st.none()), max_size=30),
    fails=st.booleans(),
    pauses=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    wakes=st.integers(0, 20),
    stops_after=st.one_of(st.none(), st.integers(0, 10)),
)


@dataclass
class Run:
    """One run of a schedule, and what must hold of it at every moment."""

    schedule: Schedule
    sleep: Callable[[float], object]
    ahead: int
    made: list[bytes] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    most_ahead: int = 0
    error: BaseException | None = None

    def items(self) -> Iterator[bytes]:
        for number, step in enumerate(self.schedule.steps):
            if step is None:
                self.sleep(0)
                continue
            chunk = bytes([number + 1]) * step
            self.made.append(chunk)
            now = sum(map(len, self.made)) - sum(map(len, self.taken))
            self.most_ahead = max(self.most_ahead, now)
            yield chunk
        if self.schedule.fails:
            raise ValueError("as scheduled")

    def serve(self, make: Make) -> Source:
        source = Source(self.items)
        pump = make(source.chunks)
        pauses = iter(self.schedule.pauses * 1000)
        most = self.schedule.stops_after
        try:
            while most is None or len(self.taken) < most:
                self.taken.append(pump.take())
                for _ in range(next(pauses)):
                    self.sleep(0)
        except (StopIteration, ValueError) as error:
            self.error = error
        pump.stop(source.close)
        return source

    def check(self, source: Source, *, each: bool) -> None:
        schedule, whole = self.schedule, b"".join(self.made)
        given = [piece for piece in self.taken if piece]
        assert whole.startswith(b"".join(given))
        largest = max((step for step in schedule.steps if step), default=0)
        assert self.most_ahead <= MAX_BUFFER + self.ahead * largest
        assert all(len(piece) < MAX_BUFFER + largest for piece in given)
        if each:
            assert given == self.made[: len(given)]
        assert source.closed == 1
        assert len(source.left) <= 1
        if isinstance(self.error, ValueError):
            assert (schedule.fails, source.left) == (True, ["ValueError"])
        if self.error is not None:
            assert b"".join(given) == whole
            assert len(self.made) == len(list(filter(None, schedule.steps)))
            assert isinstance(self.error, ValueError) == schedule.fails
        else:
            assert schedule.stops_after is not None


@pytest.mark.parametrize("each", [False, True])
@settings(deadline=None, max_examples=150)
@given(schedule=schedules)
def test_greenlets_keep_order_and_lose_nothing(each: bool, schedule: Schedule) -> None:
    run = Run(schedule, gevent.sleep, ahead=1)
    pumps: list[Pump] = []

    def make(chunks: Iterator[bytes]) -> Pump:
        pumps.append(beside(chunks, each=each))
        return pumps[0]

    def wake() -> None:
        for _ in range(schedule.wakes):
            gevent.sleep(0)
            for pump in pumps:
                gevent.get_hub().loop.run_callback(pump.wake)

    waker = gevent.spawn(wake)
    run.check(server(lambda: run.serve(make)), each=each)
    waker.join()


@pytest.mark.parametrize("each", [False, True])
@settings(deadline=None, max_examples=50)
@given(schedule=schedules)
def test_threads_keep_order_and_lose_nothing(each: bool, schedule: Schedule) -> None:
    run = Run(schedule, time.sleep, ahead=2)  # one of them waits for room
    pumps: list[ThreadPump] = []

    def make(chunks: Iterator[bytes]) -> Pump:
        pumps.append(threaded(chunks, each=each))
        return pumps[0]

    def wake() -> None:
        for _ in range(schedule.wakes):
            for pump in pumps:
                pump.wake()

    waker = threading.Thread(target=wake)
    waker.start()
    source = run.serve(make)
    waker.join()
    if (thread := pumps[0]._thread) is not None:
        thread.join(60)
    run.check(source, each=each)


# GreenletPump: when chunks are handed over.


def test_what_is_ready_together_is_taken_together() -> None:
    def items() -> Iterator[bytes]:
        yield from (b"a", b"b", b"c")
        gevent.sleep(0)
        yield from (b"d", b"e", b"f")

    assert server(lambda: all_of(beside(items()))) == [b"abc", b"d", b"ef"]


def test_what_is_ready_together_after_a_send_that_had_to_wait_is_taken_together() -> None:
    def items() -> Iterator[bytes]:
        yield bytes(MAX_BUFFER)
        yield from (b"a", b"b", b"c")

    def serve() -> list[bytes]:
        pump = beside(items())
        pump.take()
        gevent.sleep(0.001)
        return all_of(pump)

    assert server(serve) == [b"abc"]


def test_each_chunk_is_taken_by_itself_where_that_is_wanted() -> None:
    chunks = [b"a", b"b", b"c"]
    assert server(lambda: all_of(beside(iter(chunks), each=True))) == chunks
    assert all_of(threaded(iter(chunks), each=True)) == chunks


def test_what_was_made_before_a_pause_is_taken_during_it() -> None:
    def items() -> Iterator[bytes]:
        yield b"a"
        goes_on.wait()
        yield b"b"

    goes_on = Event()
    pump = beside(items())
    assert server(pump.take) == b"a"
    assert not goes_on.is_set()
    goes_on.set()
    assert server(pump.take) == b"b"
    pump.stop(nothing)


def test_the_first_chunk_after_a_pause_is_taken_before_any_other_greenlet_has_its_turn() -> None:
    happened: list[str] = []
    goes_on = Event()

    def items() -> Iterator[bytes]:
        yield b"a"
        goes_on.wait()
        happened.append("made")
        yield b"b"
        happened.append("asked for more")

    def serve() -> None:
        pump = beside(items())
        assert pump.take() == b"a"
        assert pump.take() == b"b"
        happened.append("taken")
        all_of(pump)

    writer: Any = gevent.spawn(serve)
    gevent.sleep(0)
    gevent.sleep(0)
    goes_on.set()  # the source is the next in the loop,
    other: Any = gevent.spawn(happened.append, "other")  # and behind it comes this
    gevent.joinall([writer, other], raise_error=True)
    assert happened == ["made", "taken", "asked for more", "other"]


def test_a_source_is_never_further_ahead_than_its_buffer() -> None:
    made = 0

    def items() -> Iterator[bytes]:
        nonlocal made
        while True:
            gevent.sleep(0)
            made += 1000
            yield bytes(1000)

    def serve() -> None:
        pump = beside(items())
        for _ in range(3):
            taken[0] += len(pump.take())
            pump.take()  # it asks for more, and gets one
            taken[0] += 1000
            before = made
            for _ in range(500):  # the writer is in a send
                gevent.sleep(0)
            assert before == made <= taken[0] + MAX_BUFFER + 1000
        pump.stop(nothing)

    taken = [0]
    server(serve)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("size", [1, MAX_BUFFER])
def test_a_source_that_never_waits_gives_others_their_turn(each: bool, size: int) -> None:
    turns, chunk = 0, bytes(size)

    def others() -> None:
        nonlocal turns
        while turns < 5:
            gevent.sleep(0)
            turns += 1

    def items() -> Iterator[bytes]:
        for _ in range(1_000_000):  # a hundred times what the turns need
            if turns == 5:
                return
            yield chunk

    other = gevent.spawn(others)
    server(lambda: [None for _ in pieces(beside(items(), each=each))])
    assert turns == 5
    other.join()


def test_a_source_that_never_waits_gives_its_writer_and_others_their_turn_in_a_send() -> None:
    woken, sent = Event(), Event()
    turns: list[str] = []

    def items() -> Iterator[bytes]:
        yield b"first"
        woken.wait()
        turns.append("source")
        while not sent.ready():  # it makes next to nothing, so its buffer does not stop it
            stop = time.perf_counter() + MAX_SLICE / 5
            while time.perf_counter() < stop:
                pass
            yield b"x"

    def serve() -> bytes:
        pump = beside(items())
        pump.take()
        gevent.spawn_later(0, woken.set)
        until(lambda: turns == ["source"])
        gevent.spawn(sent.set)
        sent.wait()
        return b"".join(all_of(pump))

    rest = server(serve)
    assert set(rest) == {ord("x")}


def test_the_loop_is_told_that_a_source_waits_only_when_nothing_is_ready() -> None:
    idle: list[bytes] = []
    taken: list[bytes] = []
    gates = [Event(), Event()]

    def items() -> Iterator[bytes]:
        for gate in gates:
            yield b"a"
            gate.wait()

    def serve() -> None:
        pump = GreenletPump(items())

        def told() -> bool:
            idle.append(b"".join(taken))
            return True

        pump.flow(told, each=False)
        for piece in pieces(pump):
            taken.append(piece)  # noqa: PERF402 - it is looked at meanwhile

    writer = gevent.spawn(serve)
    for number, gate in enumerate(gates, 1):
        until(lambda number=number: len(idle) == number)  # type: ignore[misc]
        gate.set()
    writer.get(timeout=60)
    assert idle == [b"a", b"aa"]


@of_both
def test_a_wait_that_is_woken_gives_nothing_and_loses_nothing(make: Make) -> None:
    goes_on: Any = Event() if make is beside else threading.Event()

    def items() -> Iterator[bytes]:
        goes_on.wait()
        yield b"a"

    pump = make(items())

    def wake() -> None:
        while not woken:
            pump.wake()
            gevent.sleep(0.001)

    def serve() -> list[bytes]:
        assert pump.take() == b""
        woken.append(True)
        goes_on.set()
        return [piece for piece in all_of(pump) if piece]

    woken: list[bool] = []
    if make is beside:
        gevent.spawn(wake)
        assert server(serve) == [b"a"]
    else:
        waker = threading.Thread(target=wake, daemon=True)
        waker.start()
        assert serve() == [b"a"]
        waker.join(60)
    pump.wake()  # nobody waits: nothing happens
    pump.stop(nothing)


# GreenletPump: how they end.


def blocked() -> Iterator[bytes]:
    yield b"a"
    Event().wait()


def held() -> Iterator[bytes]:
    while True:
        yield bytes(MAX_BUFFER)


def ended() -> Iterator[bytes]:
    yield b"a"


def failed() -> Iterator[bytes]:
    yield b"a"
    raise ValueError


def turning() -> Iterator[bytes]:
    yield b"a"
    gevent.sleep(0)
    while True:  # without a writer that waits
        time.sleep(MAX_SLICE / 5)
        yield b"a"


STATES = {
    "it waits": (blocked, "GeneratorExit"),
    "it is held": (held, "GeneratorExit"),
    "it has ended": (ended, "end"),
    "it has failed": (failed, "ValueError"),
    "it has given a turn": (turning, "GeneratorExit"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("ready", [False, True], ids=["nothing ready", "something ready"])
def test_a_source_can_be_stopped_in_every_state(state: str, ready: bool) -> None:
    items, how = STATES[state]

    def before() -> Iterator[bytes]:
        yield b"first"
        gevent.sleep(0)
        yield from items()

    source = Source(before if ready else items)

    def serve() -> None:
        pump = beside(source.chunks)
        pump.take()
        for _ in range(10):  # what comes meanwhile stays in the buffer
            gevent.sleep(0)
        pump.stop(source.close)
        assert source.left == [how]
        assert source.closed == 1
        assert pump.exhausted or how != "end"

    server(serve)


@pytest.mark.parametrize("state", ["it waits", "it is held"])
def test_a_finally_block_may_wait(state: str) -> None:
    items, _ = STATES[state]
    happened: list[str] = []

    def before() -> Iterator[bytes]:
        try:
            yield from items()
        finally:
            gevent.sleep(0.001)
            happened.append("finally")

    source = Source(before)

    def serve() -> None:
        pump = beside(source.chunks)
        pump.take()
        gevent.spawn_later(0, pump.wake)  # it means nothing any more
        pump.stop(source.close)
        happened.append("stopped")

    server(serve)
    assert happened == ["finally", "stopped"]
    assert source.left == ["GeneratorExit"]


@pytest.mark.parametrize("state", ["it waits", "it is held"])
def test_a_failure_in_a_finally_block_is_told_to_who_stops(state: str) -> None:
    items, _ = STATES[state]

    def before() -> Iterator[bytes]:
        try:
            yield from items()
        finally:
            raise ValueError("in the finally block")

    source = Source(before)

    def serve() -> None:
        pump = beside(source.chunks)
        pump.take()
        with pytest.raises(ValueError, match="in the finally block"):
            pump.stop(source.close)

    server(serve)
    assert source.closed == 1


def test_a_source_that_goes_on_after_its_interruption_is_closed_all_the_same() -> None:
    def items() -> Iterator[bytes]:
        try:
            yield from blocked()
        except GeneratorExit:
            happened.append("interrupted")
            yield b"one more"
            happened.append("not reached")

    happened: list[str] = []
    source = Source(items)

    def serve() -> None:
        pump = beside(source.chunks)
        pump.take()
        pump.stop(source.close)

    server(serve)
    assert happened == ["interrupted"]
    assert source.left == ["GeneratorExit"]


def test_a_writer_that_is_killed_while_it_waits_can_still_stop_its_source() -> None:
    source = Source(blocked)

    def serve() -> None:
        pump = beside(source.chunks)
        try:
            all_of(pump)
        finally:
            pump.stop(source.close)

    writer = gevent.spawn(serve)
    gevent.sleep(0)
    gevent.sleep(0)
    writer.kill()
    assert source.left == ["GeneratorExit"]
    assert source.closed == 1


def test_what_is_no_exception_comes_out_of_a_source_as_well() -> None:
    def items() -> Iterator[bytes]:
        yield b"a"
        with gevent.Timeout(0.001):
            gevent.sleep(10)

    def serve() -> None:
        pump = beside(items())
        assert pump.take() == b"a"
        with pytest.raises(gevent.Timeout):
            pump.take()
        pump.stop(nothing)

    server(serve)


# GreenletPump: the greenlets.


def test_the_greenlet_of_a_source_is_used_again_however_the_source_ended() -> None:
    used: list[int] = []

    def serve(items: Callable[[], Iterator[bytes]]) -> None:
        def chunks() -> Iterator[bytes]:
            used.append(id(gevent.getcurrent()))
            yield from items()

        source = Source(chunks)
        pump = beside(source.chunks)
        for _ in range(2 if items in (ended, failed) else 1):
            with suppress(StopIteration, ValueError):
                pump.take()
        pump.stop(source.close)

    for items in (ended, blocked, failed, held, ended):
        server(lambda items=items: serve(items))  # type: ignore[misc]
    assert len(used) == 5
    assert len(set(used)) == 1


def test_as_many_greenlets_are_kept_as_are_allowed() -> None:
    used: list[int] = []
    go_on = Event()

    def items() -> Iterator[bytes]:
        used.append(id(gevent.getcurrent()))  # a weak reference would say that it is not free
        yield b"a"
        go_on.wait()

    number = 3 * MAX_SOURCES
    writers = [gevent.spawn(all_of, beside(items())) for _ in range(number)]
    until(lambda: len(used) == number)
    go_on.set()
    gevent.joinall(writers, raise_error=True)
    assert [writer.value for writer in writers] == [[b"a"]] * number
    del writers
    gevent.sleep(0)
    gc.collect()
    assert len(greenlets._sources(gevent.get_hub())) == MAX_SOURCES
    assert {id(source) for source in greenlets._sources(gevent.get_hub())} <= set(used)


def test_a_kept_greenlet_holds_nothing_of_its_last_source() -> None:
    class Chunks(Iterator[bytes]):
        def __next__(self) -> NoReturn:
            raise StopIteration

    class Value:
        pass

    variable: contextvars.ContextVar[Value] = contextvars.ContextVar("variable")

    def serve() -> tuple[weakref.ref[Any], weakref.ref[Any]]:
        value = Value()
        chunks = Chunks()
        context = contextvars.copy_context()
        context.run(variable.set, value)
        pump = context.run(beside, chunks)
        assert all_of(pump) == []
        pump.stop(nothing)
        return weakref.ref(chunks), weakref.ref(value)

    chunks, value = server(serve)
    gc.collect()
    assert greenlets._sources(gevent.get_hub())
    assert chunks() is None
    assert value() is None


def test_each_thread_that_has_a_loop_runs_its_sources_in_greenlets_of_its_own() -> None:
    def serve() -> list[bytes]:
        pump = beside(iter([b"a"]))
        try:
            return all_of(pump)
        finally:
            pump.stop(nothing)

    taken: list[list[bytes]] = []

    def run() -> None:
        taken.extend(server(serve) for _ in "12")  # the second finds the greenlet of the first

    run()
    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert taken == [[b"a"]] * 6


def test_a_stopped_source_leaves_no_cycle_for_the_garbage_collector() -> None:
    class Held:
        pass

    def serve() -> weakref.ref[Any]:
        there = Held()

        def items() -> Iterator[bytes]:
            yield b"a" if there else b""
            Event().wait()

        chunks = items()
        pump = beside(chunks)
        pump.take()
        pump.stop(chunks.close)  # type: ignore[attr-defined]
        return weakref.ref(there)

    gc.collect()
    gc.disable()
    try:
        assert server(serve)() is None
    finally:
        gc.enable()


# ThreadPump.


def test_a_source_that_ends_behind_a_full_buffer_can_be_stopped() -> None:
    goes_on = threading.Event()

    def items() -> Iterator[bytes]:
        yield b"a"
        goes_on.wait()
        yield from [b"b"] * 64

    source = Source(items)
    pump = ThreadPump(source.chunks)
    assert pump.take() == b"a"
    goes_on.set()
    until(lambda: source.left == ["end"])
    stopping = threading.Thread(target=pump.stop, args=(source.close,), daemon=True)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    until(lambda: source.closed == 1)


@pytest.mark.parametrize("full", [False, True], ids=["it waits", "its buffer is full"])
def test_a_thread_closes_its_source_at_the_next_item(full: bool) -> None:
    goes_on = threading.Event()
    threads: list[threading.Thread] = []

    def items() -> Iterator[bytes]:
        try:
            yield b"a"
            while full:
                threads.append(threading.current_thread())
                yield bytes(MAX_BUFFER)
            goes_on.wait()
            yield b"b"
        finally:
            threads.append(threading.current_thread())

    source = Source(items)
    pump = ThreadPump(source.chunks)
    assert pump.take()[:1] == b"a"
    if full:
        until(lambda: len(threads) > 1)
    pump.stop(source.close)
    if not full:
        assert source.closed == 0
        goes_on.set()
    until(lambda: source.closed == 1)
    assert source.left == ["GeneratorExit"]
    assert threads[-1].name == "vento_wsgi source"
    threads[-1].join(60)
    assert not threads[-1].is_alive()


def test_nobody_is_cooperative_before_gevent_has_patched() -> None:
    lines = (
        "import sys",
        "from vento_wsgi.streaming.pumps import cooperative",
        "print(cooperative(), 'gevent' in sys.modules)",
        "import gevent.monkey",
        "print(cooperative())",
        "gevent.monkey.patch_all()",
        "print(cooperative())",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False", "False", "True"], done.stderr
    assert not cooperative()
