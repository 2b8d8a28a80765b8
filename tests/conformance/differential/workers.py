"""gunicorn's gevent worker and StreamWorker side by side."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from conformance.differential.answers import Seen, seen
from conformance.differential.better import BETTER
from conformance.differential.cases import LAST, Case
from support.servers import STOCK, STREAM_WORKER, Body, Raw, Running, connect, get, serve
from support.tls import Certificate

OURS = STREAM_WORKER
ACCESS = "%(m)s %(U)s %(q)s %(s)s %(B)s"

T = TypeVar("T")
R = TypeVar("R")


class Server:
    """A server that runs apps/legacy.py, and all that it writes."""

    def __init__(self, running: Running, tmp: Path) -> None:
        self.running = running
        self.journal = tmp / "journal"
        self.access = tmp / "access"
        self._read: dict[Path, int] = {}

    def new_lines(self, file: Path) -> list[str]:
        """The lines that `file` has got since it was last asked for."""
        if not file.exists():
            return []
        with file.open("rb") as opened:
            opened.seek(self._read.get(file, 0))
            data = opened.read()
        self._read[file] = self._read.get(file, 0) + len(data)
        return data.decode("utf-8", "replace").splitlines()

    def shows(self, case: Case) -> Seen:
        """Send the case and LAST behind it, and look at all that comes until the end."""
        for file in (self.journal, self.access, self.running.log_path):
            self.new_lines(file)
        with connect(self.running) as raw:
            with suppress(OSError):  # it may have closed already
                raw.sock.sendall(case.data + LAST)
                if not isinstance(raw.sock, ssl.SSLSocket):  # whose half cannot be closed
                    raw.sock.shutdown(socket.SHUT_WR)
            found = seen(raw.read_rest(), case.methods)
        return replace(
            found,
            journal=tuple(self.new_lines(self.journal)),
            access=tuple(self.new_lines(self.access)),
            errors=tuple(errors(self.new_lines(self.running.log_path))),
        )


def errors(lines: list[str]) -> Iterator[str]:
    """What a log says, without times, processes, addresses and the lines of code."""
    for line in lines:
        if not line.startswith((" ", "Traceback")):
            line = re.sub(r"^\[[^]]*] \[\d+] ", "", line)
            yield re.sub(r" at 0x[0-9a-f]+", "", line).replace("'WorkerResponse'", "'Response'")


Pair = tuple[Server, Server]


@contextmanager
def run_legacy(
    server: str,
    tmp: Path,
    *options: str,
    env: dict[str, str] | None = None,
    certificate: Certificate | None = None,
) -> Iterator[Server]:
    """apps/legacy.py on `server`, with files for its journal and its accesses in `tmp`."""
    (tmp / "files").mkdir()
    env = {"JOURNAL": str(tmp / "journal"), "FILES": str(tmp / "files"), **(env or {})}
    log = [f"--access-logfile={tmp / 'access'}", f"--access-logformat={ACCESS}"]
    options = ("--keep-alive=20", "--no-control-socket", *log, *options)
    with serve(
        server, "apps.legacy:app", tmp=tmp, env=env, options=options, certificate=certificate
    ) as running:
        yield Server(running, tmp)


@contextmanager
def run_pair(
    factory: pytest.TempPathFactory,
    http_parser: str,
    *options: str,
    certificate: Certificate | None = None,
) -> Iterator[Pair]:
    """Both workers with the same parser and options."""
    options = (f"--http-parser={http_parser}", *options)
    with ExitStack() as stack:
        stock, ours = (
            stack.enter_context(
                run_legacy(name, factory.mktemp(name), *options, certificate=certificate)
            )
            for name in (STOCK, OURS)
        )
        yield stock, ours
        stop(stock, ours)


def stop(*started: Server) -> None:
    """Have servers stop side by side: each takes a second."""
    for server in started:
        server.running.process.terminate()


def on_both(check: Callable[[T], R], both: tuple[T, T]) -> list[R]:
    """Run a check of each server, side by side."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(check, both))


def compare(pair: Pair, case: Case, http_parser: str) -> None:
    """Both do the same, or differ as BETTER says."""
    stock, ours = (server.shows(case) for server in pair)
    for better in BETTER:
        if http_parser in better.parsers and better.when(case):
            assert stock.end == (better.stock or stock.end), better.why
            stock = better.instead(case, stock)
            assert stock.end == (better.ours or stock.end), better.why
    assert ours == stock


def let(running: Running, name: str, times: int = 1) -> None:
    """Let the stream `name` go on."""
    assert get(running, f"/let?name={name}&times={times}")[1] == Body(b"let", True)


def answers(raw: Raw) -> None:
    """Assert that the connection still serves, and that nothing is left over on it."""
    assert raw.request("GET", "/last").status == 200
    assert raw.read_all() == Body(b"last", True)


def finish(raw: Raw) -> None:
    """The same, and wait until the server is done with the connection and has logged it."""
    raw.ask("GET", "/last", "Connection: close")
    assert raw.read_head().status == 200
    assert raw.read_all() == Body(b"last", True)
    assert raw.read_rest() == b""
