"""Redis: a log for processes on any number of machines, in one stream of a Redis 6.2 or later.

The key of the stream is the ``?name=`` in the URL. The name is required: nothing else tells apart
two applications on one Redis and is the same on all machines of one application. The ids of the
stream are the positions of the log. Operations that must be atomic are in scripts.py.

A Redis can be set back, that is, return to an older state: it restarts from an older dump, or a
replica with fewer entries takes over. Entries are removed only from the front of a stream. So an
id that is not before the front and names no entry belongs to a lost entry or to another stream.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import redis
from redis import connection as connections
from redis.backoff import NoBackoff
from redis.exceptions import AuthorizationError, RedisError
from redis.retry import Retry

from ....exceptions import BrokerError
from ....logs import logger
from ..event_log import Entry, Topics
from ..url import Secret, without_password
from .scripts import APPEND, READ, START, STATE, Position, State, parse, position, text

__all__ = ["Redis"]

log = logger(__name__)

BATCH = 250
"""Entries read at once: parsing them takes some milliseconds, then others can run."""

BATCH_BYTES = 256 * 1024
"""Bytes of blocks that read() fetches at once, of any topic, at most, plus one block."""

PATIENCE = 10.0
"""Seconds to keep trying: a restart or a failover takes a few seconds."""

ANSWER = 5.0
"""Seconds to wait for one reply. (For a connection it is 2 seconds.)"""

BLOCK = 2.0
"""Seconds that Redis waits for a new entry before it replies that there is none."""

NONCE = 60.0
"""Seconds that Redis remembers a publication: well over PATIENCE and ANSWER together."""

MAX_CONNECTIONS = 16
"""Connections of a process for publishing and reading; each is held for one round trip."""

MAX_PAUSE = 2.0
"""Seconds between two attempts, at most."""

_NAME = re.compile(r"[\w.:/-]{1,200}", re.ASCII)

T = TypeVar("T")

_ENCODED = "in a password / is %2F, ? is %3F, # is %23 and @ is %40"

_REFUSED = (redis.AuthenticationError, AuthorizationError)

_parse_url: Any = connections.parse_url  # redis-py has no types for these
_Pool: Any = connections.BlockingConnectionPool


class Redis:
    """About the last `count` entries of about the last `age` seconds.

    Redis trims a stream by whole nodes, so some more entries may be kept. Each process connects at
    its first use of the log.
    """

    def __init__(self, url: str, count: int, age: float) -> None:
        self._where = without_password(url)
        try:
            self._name, options = _options(url)
            self._kind: type[Any] = options.pop("connection_class", connections.Connection)
            self._kind(**options)  # raises if it does not know an option
        except (TypeError, ValueError, RedisError) as error:
            raise BrokerError(  # from None: messages of other libraries may contain the password
                f"{self._where} is no URL of a Redis: {error}; write "
                "redis://user:password@host:port/db?name=shop, rediss:// or unix://path?db=0"
            ) from None
        self._secrets = [value for value in options.values() if isinstance(value, Secret)]
        self._options = options
        self._count = count
        self._age = age
        self._trim_at = 0.0
        self._closed = False
        self._pid = 0
        self._client: Any = None
        self._following: dict[Any, int] = {}  # connections of follow(), each with its process id

    def append(self, topic: str, block: bytes) -> Position:
        age = -1
        if time.monotonic() >= self._trim_at:
            self._trim_at = time.monotonic() + min(self._age / 8, 60)
            age = round(min(self._age, 1e9) * 1000)
        keys = (self._name, f"{{{self._name}}}:{os.urandom(12).hex()}")
        values = (topic, block, self._count, age, round(NONCE * 1000), os.urandom(8).hex())
        return position(self._run(lambda client: client.eval(APPEND, 2, *keys, *values)))

    def last(self) -> Position:
        return self._run(self._state).last

    def first(self) -> Position:
        return self._run(self._state).first

    def lost(self, after: Position) -> bool:
        """Also True if the entry at `after` itself was dropped or lost, or is of another stream."""
        state = self._run(lambda client: self._state(client, after))
        if after == START:
            return not state.whole
        return not (state.has or after == state.first or after == state.last)

    def read(self, after: Position, topics: Topics, limit: int, size: float = inf) -> list[Entry]:
        found: list[Entry] = []
        more = True
        while more and len(found) < limit and size > 0:
            page, more = self._run(partial(self._page, after))
            for entry in page:
                if entry.topic in topics and len(found) < limit and size > 0:
                    found.append(entry)
                    size -= len(entry.block)
            after = page[-1].position if page else after
        return found

    def _page(self, after: Position, client: Any) -> tuple[list[Entry], bool]:
        """The entries after a position, up to BATCH_BYTES, and whether there may be more."""
        page, more = client.eval(READ, 1, self._name, text(after), BATCH, BATCH_BYTES)
        return [Entry(position(name), *_field(*fields)) for name, fields in page], bool(more)

    def follow(self, after: Position) -> Iterator[list[Entry]]:
        stream: bytes | None = None
        pause, failed = 0.0, False
        while not self._closed:
            connection = self._kind(**{**self._options, "socket_timeout": BLOCK + ANSWER})
            self._following[connection] = os.getpid()
            try:
                connection.connect()
                entries: list[Entry] = []
                while not self._closed:
                    # Each batch is read first, and yielded only if the position before it is
                    # still in the log: so no batch of another history is yielded.
                    stream = self._find(connection, stream, after)
                    if stream is None:
                        log.warning("%s was replaced or set back: streams end", self._where)
                        return
                    if entries:
                        after = entries[-1].position
                        yield entries
                    entries = self._next(connection, after)
                    pause, failed = 0.0, False
            except (RedisError, OSError) as error:
                if not (failed or self._closed):
                    said = self._without_secrets(str(error))
                    log.warning(
                        "reading new events from %s fails, and is tried again: %s",
                        self._where,
                        said,
                    )
                failed = True
            finally:
                del self._following[connection]
                connection.disconnect()
            pause = min(max(2 * pause, 0.05), MAX_PAUSE)
            self._sleep(random.uniform(pause / 2, pause))

    def _find(self, connection: Any, stream: bytes | None, after: Position) -> bytes | None:
        """The name of the current stream, b"" if there is none yet. `stream`: the name before.

        None if the stream was replaced or set back since `after` was read.
        """
        connection.send_command("EVAL", STATE, 1, self._name, text(after))
        state = State.of(connection.read_response())
        if after == START:
            return state.stream
        if stream and stream != state.stream:
            return None
        return state.stream if state.has or after <= state.first or after == state.last else None

    def _next(self, connection: Any, after: Position) -> list[Entry]:
        milliseconds = round(BLOCK * 1000)
        streams = "STREAMS", self._name, text(after)
        connection.send_command("XREAD", "COUNT", BATCH, "BLOCK", milliseconds, *streams)
        answer = connection.read_response()
        found = answer[0][1] if answer else ()
        return [Entry(position(name), *_field(*fields)) for name, fields in found]

    def id(self, position: Position) -> str:
        return text(position)

    def position(self, id: str) -> Position | None:
        return parse(id)

    def close(self) -> None:
        self._closed = True
        here = os.getpid()
        for connection, process in tuple(self._following.items()):
            if process == here:
                with suppress(AttributeError, OSError):  # not connected, or no more
                    connection._sock.shutdown(socket.SHUT_RDWR)
        if self._pid == here:
            self._client.connection_pool.disconnect()

    def _state(self, client: Any, asked: Position = START) -> State:
        return State.of(client.eval(STATE, 1, self._name, text(asked)))

    def _run(self, work: Callable[[Any], T]) -> T:
        """The result of `work`, which is called again while Redis cannot be reached."""
        give_up, pause = time.monotonic() + PATIENCE, 0.05
        while True:
            self._check_open()
            try:
                return work(self._connected())
            except Exception as error:
                self._check_open()  # redis-py raises any exception if it is closed meanwhile
                if not _passes(error) or time.monotonic() + pause > give_up:
                    refusal = self._refusal(error)
                    shows = refusal is error or self._without_secrets(str(error)) == str(error)
                    raise refusal from (error if shows else None)
            self._sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, MAX_PAUSE)

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError("the broker has been closed: make a new one")

    def _refusal(self, error: Exception) -> Exception:
        if not isinstance(error, RedisError):
            return error
        said = self._without_secrets(str(error))
        if _passes(error):
            return BrokerError(
                f"{self._where} did not answer within {PATIENCE:g} s: {said}; "
                "is it running there, and can this machine connect to it?"
            )
        advice = ""
        # "unauthenticated": the reply to a long command before authentication
        if isinstance(error, _REFUSED) or "unauthenticated" in said:
            advice = "; check user and password in the URL"
        elif said.startswith("WRONGTYPE"):
            advice = "; another program uses the key: write another ?name= in the URL"
        elif "unknown" in said.lower():
            advice = "; Redis 6.2 or later is needed, with scripts and streams"
        return BrokerError(f"{self._where} refuses a command for {self._name}: {said}{advice}")

    def _without_secrets(self, said: str) -> str:
        """An error message without passwords: Redis or a proxy may quote the refused command."""
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said

    def _connected(self) -> Any:
        if self._pid != os.getpid():  # the pool of the parent may hold locks, so it is not used
            pool = _Pool(
                max_connections=MAX_CONNECTIONS,
                timeout=1,
                connection_class=self._kind,
                **self._options,
            )
            self._client = redis.Redis(connection_pool=pool)
            self._pid = os.getpid()
        return self._client

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closed and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))


def _options(url: str) -> tuple[str, dict[str, Any]]:
    """The stream's name and the options of a connection. Raises ValueError without a password."""
    address, _, query = url.partition("?")
    fields = parse_qs(query)
    name = fields.pop("name", [""])[-1]
    if name and not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r}, but letters, digits and .:/_- are allowed")
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018
    except ValueError:
        raise ValueError(f"its host or port is invalid; {_ENCODED}") from None
    if parts.fragment or (parts.scheme != "unix" and not re.fullmatch("/?[0-9]*", parts.path)):
        raise ValueError(f"its path is not the number of a database; {_ENCODED}")
    options = _parse_url(f"{address}?{urlencode(fields, doseq=True)}")
    if not name:
        raise BrokerError(
            f"{without_password(url)} has no name for the log, so all applications on this Redis "
            "would share one log: add a name, the same on all machines of this application, as in "
            "redis://host/0?name=shop"
        )
    options.update(
        protocol=2,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),  # _run() and follow() retry
        socket_timeout=ANSWER,
        socket_connect_timeout=2.0,
    )
    for key in ("password", "ssl_password"):
        if options.get(key):
            options[key] = Secret(options[key])
    return name, options


def _field(topic: bytes, block: bytes, *_: bytes) -> tuple[str, bytes]:
    return topic.decode("utf-8", "replace"), block


def _passes(error: Exception) -> bool:
    """Whether the error is temporary: Redis restarts, or becomes the replica of another."""
    passing = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError)
    return isinstance(error, passing) and not isinstance(error, _REFUSED)
