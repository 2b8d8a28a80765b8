"""The Broker: what applications publish to and subscribe at."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from ..exceptions import BrokerError, EventError
from ..sse import Event
from .backends.event_log import EventLog, Topics
from .backends.url import without_password
from .frames import Slow
from .subscription import Subscription

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Broker"]

KEEP = 10_000
"""Events kept by default: a busy hour of 2 or 3 a second, and some megabytes."""

KEEP_SECONDS = 24 * 3600.0
"""Who has been away for longer than a day loads the page anew."""

MAX_EVENT = 64 * 1024
"""Bytes of an event by default: it is sent to every subscriber, and kept."""

BACKLOG = 1000
"""Events that wait for a slow subscriber by default: of the usual size, a hundred kilobytes."""

REPLAY = 5 * BACKLOG
"""Events given to a subscriber that comes back, by default: half an hour of 2 or 3 a second, and of
the usual size half a megabyte. Several backlogs, since a subscriber that was sent away as too slow
has one of them to catch up with."""

MAX_TOPIC = 200
"""Characters: topics are names, not content."""


class Broker:
    """Topics that any process may publish to and any subscribe at.

    url: ``memory://`` for one process, ``sqlite:///relative.db`` or ``sqlite:////absolute.db``
        for all processes of one machine, ``redis://host/0?name=shop``, ``rediss://…`` or
        ``unix://…`` for several machines. By default $VENTO_BROKER_URL, else a SQLite log of
        this user and working directory. The attribute `url` is without its password.
    keep, keep_seconds: how many events are kept for those who come back, and for how long.
    max_event: bytes of an encoded event.

    Nothing is opened before it is used, so a Broker may be made at import and before a fork.
    Raises ValueError on a url that is none.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        keep: int = KEEP,
        keep_seconds: float = KEEP_SECONDS,
        max_event: int = MAX_EVENT,
    ) -> None:
        if keep < 1 or keep_seconds <= 0 or max_event < 1:
            raise ValueError("keep, keep_seconds and max_event are above 0")
        url = url or os.environ.get("VENTO_BROKER_URL") or _default()
        self.url = without_password(url)
        self.max_event = max_event
        self._keep = keep, keep_seconds
        self._open = _backend(url, keep, keep_seconds)
        self._here: dict[int, _Here] = {}

    def publish(self, topic: str, event: object) -> str:
        """Give every subscriber of `topic` an event; its id.

        event: an Event without an id, or the data of one: text, bytes as UTF-8, else JSON.

        Raises EventError on what cannot be sent, BrokerError if the log cannot take it.
        """
        _check_topic(topic)
        if not isinstance(event, Event):
            event = Event(event)
        if event.id is not None or event.data is None:
            raise EventError("an event that is published has data, and its id from the broker")
        block = event.encode()
        if len(block) > self.max_event:
            raise EventError(
                f"an event of {len(block)} bytes is over the limit of {self.max_event}: publish "
                "where its content is found, or make the Broker with a larger max_event"
            )
        source = self._opened().source()
        return source.id(source.append(topic, block))

    def subscribe(
        self,
        *topics: str,
        below: str | Iterable[str] = (),
        after: str | None = None,
        replay: int | None = REPLAY,
        slow: Slow = "disconnect",
        backlog: int = BACKLOG,
    ) -> Subscription:
        """Every later event of `topics`, and of all topics below those of `below`.

        topics: names, each of them exactly as it was published to. They may come from a URL.
        below: a name, or several: of "world" every topic that begins with "world/".
        after: the id of the last event that the subscriber has; what came later is given first.
            Without it only what is published from now on is given.
        replay: how many events there may be to give first; None is no limit. If there are more,
            or some are no longer kept, or `after` is no id of this log, then an event named "gap"
            comes in the place of those that are missing: load the state anew. After a gap the
            subscription goes on from the end of the log.
        slow: what becomes of a subscriber for which over `backlog` events wait: "disconnect",
            "drop_oldest", "latest".

        Raises ValueError on a topic that is none, BrokerError if the log cannot be read.
        """
        if not isinstance(below, (str, Iterable)):
            raise ValueError(f"below is a topic or several, not {below!r}")
        above = (below,) if isinstance(below, str) else tuple(below)
        if not topics and not above:
            raise ValueError("subscribe to one topic or more")
        for topic in topics:
            _check_topic(topic)
        for topic in above:
            _check_above(topic)
        if after is not None and not isinstance(after, str):
            raise ValueError(f"after is the id of an event or None, not {after!r}")
        if replay is not None and (type(replay) is not int or replay < 0):
            raise ValueError(f"replay is a number of events, 0 or more, or None, not {replay!r}")
        here, wanted = self._opened(), _topics(topics, above)
        return Subscription(here.source(), here.told, wanted, after, slow, backlog, replay)

    @property
    def subscribers(self) -> int:
        """How many subscribers of this process are being told what is published."""
        here = self._here.get(os.getpid())
        return 0 if here is None else here.subscribers

    def close(self) -> None:
        """Free what is held; a later use opens it anew."""
        here = self._here.pop(os.getpid(), None)
        if here is not None and here.log is not None:
            here.log.close()

    def _opened(self) -> _Here:
        process = os.getpid()
        here = self._here.get(process)
        return here or self._here.setdefault(process, _Here(self._open, *self._keep))


class _Here:
    """What one process has open: neither connections nor locks outlive a fork."""

    def __init__(self, open: Callable[[], EventLog], keep: int, keep_seconds: float) -> None:
        self._open = open
        self._keep = keep, keep_seconds
        self._lock = threading.Lock()
        self.log: EventLog | None = None
        self._fanout: Fanout | None = None

    def source(self) -> EventLog:
        if self.log is None:
            with self._lock:
                self.log = self.log or self._open()
        return self.log

    def told(self) -> Fanout:
        if self._fanout is None or self._fanout.over:
            from .fanout import Fanout

            source = self.source()
            with self._lock:
                if self._fanout is None or self._fanout.over:
                    self._fanout = Fanout(source, *self._keep)
        return self._fanout

    @property
    def subscribers(self) -> int:
        return 0 if self._fanout is None else self._fanout.sinks


@lru_cache(maxsize=1024)
def _topics(names: tuple[str, ...], below: tuple[str, ...]) -> Topics:
    return Topics(names, below)  # one for all who ask for the same


def _check_topic(topic: str) -> None:
    if not isinstance(topic, str) or not topic or len(topic) > MAX_TOPIC:
        raise ValueError(f"a topic is a name of 1 to {MAX_TOPIC} characters, not {topic!r}")
    if not topic.isprintable():
        raise ValueError(f"{topic!r} cannot be a topic: it has control characters")
    if "*" in topic:
        above = topic.removesuffix("/*")
        example = above if above and "*" not in above else "world"
        raise ValueError(
            f'{topic!r} cannot be a topic: a topic is a name, and has no "*" in it; '
            f"for all topics below a name use subscribe(below={example!r})"
        )


def _check_above(topic: str) -> None:
    _check_topic(topic)
    if topic.endswith("/"):
        raise ValueError(
            f"below={topic!r} cannot be a topic: write it without the slash at its end, "
            f"below={topic.rstrip('/') or 'world'!r}"
        )


def _default() -> str:
    """A log of this user and working directory."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    name = hashlib.sha256(os.getcwd().encode()).hexdigest()[:16]
    return f"sqlite:///{quote(os.path.join(base, 'vento_wsgi', name))}.db"


def _backend(url: str, keep: int, keep_seconds: float) -> Callable[[], EventLog]:
    refused = ValueError(
        f"{without_password(url)!r} is no url of a broker: "
        "memory://, sqlite:///path or redis://host:port/0?name=shop"
    )
    try:
        parts = urlsplit(url)
    except ValueError:  # which may repeat the password
        raise refused from None

    def memory() -> EventLog:
        from .backends.memory import Memory

        return Memory(keep, keep_seconds)

    def sqlite() -> EventLog:
        from .backends.sqlite.event_log import SQLite

        return SQLite(path, keep, keep_seconds)

    def redis() -> EventLog:
        try:
            from .backends.redis.event_log import Redis
        except ImportError as error:
            raise BrokerError(
                f"{parts.scheme}:// needs redis: pip install 'vento_wsgi[redis]'"
            ) from error
        return Redis(url, keep, keep_seconds)

    if parts.scheme == "memory":
        return memory
    if parts.scheme == "sqlite" and parts.path.startswith("/") and parts.netloc == "":
        path = unquote(parts.path[1:])
        if path not in ("", ":memory:") and not (parts.query or parts.fragment):
            return sqlite
    if parts.scheme in ("redis", "rediss", "unix"):
        return redis
    raise refused
