"""Reading: gunicorn's request parser, at less cost.

What is a request, and what is refused, is gunicorn's to say. Ours is that its settings are
plain attributes, that a client's address is looked up once a connection, and that it is known
whether a request has begun.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

__all__ = ["Parser", "Reader", "Settings"]


class Settings(Config):
    """A worker's configuration. Each request asks it some twenty times."""

    def __init__(self, cfg: Config) -> None:
        vars(self).update(vars(cfg))
        for name in self.settings:
            self._keep(name)

    def set(self, name: str, value: Any) -> None:
        super().set(name, value)
        self._keep(name)

    def _keep(self, name: str) -> None:
        vars(self)[name] = self.settings[name].get()


class Reader(SocketUnreader):
    """What a client sends. since: when it began to be waited for, in seconds of monotonic().

    begun: whether some of the next request has come. kept: whether there was one before it.
    trusted: whether the client is a proxy that may say who it speaks for, once that is known.
    """

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.since = monotonic()
        self.begun = self.kept = False
        self.trusted: bool | None = None

    def chunk(self, size_hint: int | None = None) -> bytes:
        data: bytes = super().chunk(size_hint)  # type: ignore[call-arg]
        self.begun = True
        return data

    def await_request(self) -> None:
        """Called when the connection has nothing left to do but to wait for the next request."""
        self.since = monotonic()
        self.begun = self.buf.tell() > 0


class _Request(Request):
    unreader: Reader

    def _peer_is_trusted_proxy(self) -> bool:
        trusted = self.unreader.trusted
        if trusted is None:
            trusted = super()._peer_is_trusted_proxy()  # type: ignore[misc]
            self.unreader.trusted = trusted
        return trusted


class Parser(RequestParser):
    """The requests of one connection."""

    mesg_class = _Request
    unreader: Reader

    def __init__(self, cfg: Config, sock: Any, address: Any) -> None:
        super().__init__(cfg, sock, address)
        self.unreader = Reader(sock)
