"""Subscriptions without a server: parked at one end of a socket pair, or iterated."""

import contextlib
import logging
import socket
from typing import Any
from wsgiref.validate import validator

import gevent
import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from vento_wsgi import Broker, Context, create_app, create_router
from vento_wsgi.broker.body import SubscriptionBody
from vento_wsgi.broker.fanout import waits
from vento_wsgi.broker.frames import Frame
from vento_wsgi.broker.parked import ParkedSubscriber
from vento_wsgi.exceptions import BrokerError
from vento_wsgi.streaming.connection import Connection
from vento_wsgi.streaming.options import StreamOptions


def test_a_log_that_fails_before_a_subscription_is_an_error_and_within_it_an_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker("memory://")
    first = broker.publish("a", "x")
    source = broker._opened().source()

    def fails(*_: object) -> Any:
        raise BrokerError("the log is gone")

    subscription = broker.subscribe("a", after=first)
    broker.publish("a", "y")
    monkeypatch.setattr(source, "read", fails)
    ours, theirs = socket.socketpair()
    sent: list[bytes] = []
    ended: list[str] = []
    with ours:
        policies = StreamOptions(on_end=lambda ending: ended.append(str(ending.reason)))
        environ = EnvironBuilder(path="/events").get_environ()
        feed = SubscriptionBody(
            subscription,
            lambda: None,  # type: ignore[arg-type, return-value]
            lambda: ended.append("closed"),
            environ,
            policies,
        )

        class Sent(Connection):
            def push(self, chunks: Any, *_: Any, **__: Any) -> None:
                sent.extend(chunks)

        with caplog.at_level(logging.ERROR):
            feed.park(Sent(), theirs.detach, lambda size: ended.append(str(size)))
        gevent.sleep(0)
        assert ours.recv(1) == b""
    (data,) = sent
    assert data.startswith(b":\nretry: 3000\nevent: error\n")
    assert ended == ["closed", str(len(data)), "failed"]
    assert "the log is gone" in caplog.text
    assert broker._opened().told()._all() == ()
    broker.close()


def test_what_was_read_from_the_log_is_not_sent_again() -> None:
    broker = Broker("memory://")
    source = broker._opened().source()
    subscription = broker.subscribe("a")
    frames = [Frame(n, b"id: %d\ndata: x\n\n" % n) for n in range(1, 6)]
    ours, theirs = socket.socketpair()
    with ours:
        environ = EnvironBuilder(path="/events").get_environ() | {
            "HTTP_ACCEPT": "text/event-stream"
        }
        slot = ParkedSubscriber(subscription, environ, None, StreamOptions(), None)
        slot.join(broker._opened().told())
        slot.put(frames[2])
        slot.put(frames[3])
        slot.open(theirs.detach(), 3)
        for each in (frames[1], frames[3], frames[4], frames[4]):
            slot.put(each)
        assert ours.recv(1 << 16) == frames[3].chunk + frames[4].chunk
        slot.dismiss()
        assert ours.recv(1 << 16) == b"0\r\n\r\n"
        assert ours.recv(1) == b""
    assert source.last() == 0
    broker.close()


def test_a_live_subscriber_falls_behind_and_catches_up_in_order_and_is_counted_right() -> None:
    broker = Broker("memory://")
    fanout = broker._opened().told()
    endings: list[Any] = []
    ours, theirs = socket.socketpair()
    sent = [Frame(n, b"id: %d\ndata: %s\n\n" % (n, b"x" * 20_000)) for n in range(1, 60)]
    with ours:
        ours.setblocking(False)
        environ = EnvironBuilder(path="/events").get_environ()
        options = StreamOptions(on_end=endings.append)
        slot = ParkedSubscriber(broker.subscribe("a"), environ, None, options, None)
        slot.join(fanout)
        slot.open(theirs.detach(), 0)
        got = bytearray()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while data := ours.recv(1 << 20):
                    got.extend(data)

        states = set()
        for frame in sent[:50]:  # more than the socket takes
            fanout._tell_topic(frame, "a")
            (place,) = fanout._names.values()
            (batch,) = place.batches
            is_live = batch.sends[slot] is not waits
            states.add((slot.snapshot.state, is_live))
            assert slot.holds == (frame.position if is_live else None)
        assert states == {("parked", True), ("behind", False)}
        for _ in range(200):
            read()
            gevent.sleep(0.001)
        for frame in sent[50:]:
            fanout._tell_topic(frame, "a")
            read()
            assert batch.sends[slot] is not waits
            assert slot.snapshot.moved == frame.made
            assert slot.snapshot.chunks == frame.position
        assert bytes(got) == b"".join(frame.chunk for frame in sent)
        slot.left()
        gevent.sleep(0)
    (ending,) = endings
    assert (ending.bytes, ending.chunks) == (sum(len(f.block) for f in sent), len(sent))
    assert fanout._all() == ()
    broker.close()


def test_wsgiref_finds_nothing_wrong_with_a_subscription() -> None:
    broker = Broker("memory://")
    router = create_router()

    @router.get("/")
    def events(ctx: Context) -> Any:
        return ctx.sse(broker.subscribe("a", after=ctx.last_event_id))

    app = create_app()
    app.use(router)
    after = broker.publish("a", "0")
    broker.publish("a", "1")
    environ = EnvironBuilder().get_environ()
    environ["HTTP_LAST_EVENT_ID"] = after
    body, status, headers = run_wsgi_app(validator(app), environ)
    assert status == "200 OK"
    assert headers["Content-Type"].startswith("text/event-stream")
    got = b""
    while b"data: 1\n\n" not in got:
        got += next(iter(body))
    body.close()  # type: ignore[attr-defined]
    assert broker._opened().told()._all() == ()
    broker.close()
