"""Responses without a server, and conditions within a process whose loop is to go on."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol, cast

import gevent
from werkzeug.test import create_environ

from vento_wsgi import Response, StreamAborted


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition()`, with gevent's loop going on."""
    with gevent.Timeout(60):
        while not condition():
            gevent.sleep(0.001)


class AppIter(Protocol):
    """What a WSGI server is given: it iterates it, and calls close()."""

    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> object: ...


def answer(response: Response, method: str = "GET", **environ: Any) -> AppIter:
    """What the server is given for a request."""
    environ = {**create_environ("/path", method=method), **environ}
    started: list[object] = []
    written: list[bytes] = []

    def start_response(*head: object) -> Callable[[bytes], object]:
        started.append(head)
        return written.append

    app_iter = response(environ, start_response)
    assert len(started) == 1
    assert b"".join(written) == b""
    return cast(AppIter, app_iter)


def iterate(app_iter: AppIter) -> tuple[bytes, bool]:
    """What a server makes of a stream: the bytes that it sends, and whether they are whole."""
    sent = b""
    with closing(app_iter):
        try:
            for chunk in app_iter:
                sent += chunk
        except StreamAborted:
            return sent, False
    return sent, True


class Source:
    """Gives its items, raises those that are exceptions, and tells what became of it."""

    def __init__(self, *items: object) -> None:
        self._items = items
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.taken += 1
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self.closed += 1
