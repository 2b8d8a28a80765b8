"""Real WSGI servers as processes, and a client that sees the raw bytes of a response.

    with serve("gunicorn-gevent", "apps.news:app", tmp=tmp_path) as running:
        with connect(running) as raw:
            raw.send(b"GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
            head = raw.read_head()
            body = raw.read_all()

`Raw` parses only the framing, so that a test can tell a body that ended from a body that broke
off. An HTTP library would hide the difference, or raise an error of its own.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from werkzeug.datastructures import Headers

from support.closing import Closing
from support.missing import missing
from support.tls import Certificate

OPENING, COMMENT = b":\nretry: 3000\n", b":\n"
"""The first bytes of an event stream that answers a GET, and its heartbeat."""

EVENT_SOURCE = "Accept: text/event-stream"
"""The field by which EventSource asks for a stream."""

SERVERS: tuple[str, ...] = (
    "gunicorn-sync",
    "gunicorn-gthread",
    "gunicorn-gevent",
    "gunicorn-gevent_pywsgi",
    "gunicorn-StreamWorker",
    "gevent-pywsgi",
    "waitress",
    "cheroot",
    "uwsgi",
    "mod_wsgi",
    "granian",
    "wsgiref",
)

STREAM_WORKER = "gunicorn-StreamWorker"
STOCK = "gunicorn-gevent"

TESTS = Path(__file__).resolve().parents[1]
APPS = TESTS / "apps"
ROOT = TESTS.parent
START_SECONDS = 30.0  # the first start of mod_wsgi's daemon under load takes several
STOP_SECONDS = 20.0
THREADS = "8"  # on every threaded server: more streams than any test holds open at once


@dataclass(frozen=True)
class Running:
    """A server that answers requests."""

    server: str
    host: str
    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    tls: ssl.SSLContext | None = None  # for its clients, if it speaks TLS

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """Its stdout and stderr so far."""
        return self.log_path.read_text("utf-8", "replace")


@contextmanager
def serve(
    server: str,
    target: str,
    *,
    tmp: Path,
    cwd: Path = TESTS,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    certificate: Certificate | None = None,
) -> Iterator[Running]:
    """Run `target` ("module:app", importable from `cwd`) on one of SERVERS while the block runs.

    `tmp` is where its log and other files go; `options` are further arguments of its command
    line. `certificate` makes gunicorn speak TLS. The server has answered a HEAD of "/" when the
    block starts.
    """
    require(server)
    if certificate is not None:
        options = [*options, *certificate.options]
    tls = certificate.context() if certificate else None
    running = _start(server, target, cwd, tmp, env or {}, options, tls)
    try:
        yield running
    except BaseException:
        print(f"{server}:\n{running.log()}")  # noqa: T201
        raise
    finally:
        _stop(running.process)


def _start(
    server: str,
    target: str,
    cwd: Path,
    tmp: Path,
    env: Mapping[str, str],
    options: Sequence[str],
    tls: ssl.SSLContext | None,
    attempts: int = 3,
) -> Running:
    host, port = "127.0.0.1", free_port()
    log_path = tmp / f"{server}-{port}.log"
    path = os.pathsep.join(filter(None, [str(cwd), os.environ.get("PYTHONPATH")]))
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*_command(server, target, host, port, cwd, tmp, log_path), *options],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = Running(server, host, port, process, log_path, tls)
    try:
        eventually(lambda: _answers(running), START_SECONDS, lambda: f"{server}:\n{running.log()}")
    except ChildProcessError:
        _stop(process)
        if attempts > 1 and "in use" in running.log().lower():
            return _start(server, target, cwd, tmp, env, options, tls, attempts - 1)
        raise
    except BaseException:
        _stop(process)
        raise
    return running


def _answers(running: Running) -> bool:
    if (code := running.process.poll()) is not None:
        raise ChildProcessError(f"{running.server} ended with {code}:\n{running.log()}")
    # Some servers listen before they import the application: only an answer tells.
    with suppress(ConnectionError), connect(running, START_SECONDS) as raw:
        raw.ask("HEAD", "/", "Connection: close")
        return raw.read_rest() != b""
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the server, then kill what is left of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port on which nothing listens.

    It is none of those that a kernel gives away by itself (Linux from 32768, macOS from 49152):
    one of these could be that of a client's connection before the server listens on it.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(
    condition: Callable[[], bool],
    timeout: float = 30,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Wait until `condition()` is true. `timeout` is in seconds, and long for busy machines."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {timeout:g} s: {explain()}")
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


# How each server is started.


def _command(
    server: str, target: str, host: str, port: int, cwd: Path, tmp: Path, log: Path
) -> list[str]:
    address = f"{host}:{port}"
    python = sys.executable
    gunicorn = [python, "-m", "gunicorn", "-b", address, "--graceful-timeout=2", target, "-k"]
    match server:
        case "gunicorn-gthread":
            return [*gunicorn, "gthread", "--threads", THREADS]
        case "gunicorn-sync" | "gunicorn-gevent" | "gunicorn-gevent_pywsgi":
            return [*gunicorn, server.removeprefix("gunicorn-")]
        case "gunicorn-StreamWorker":
            return [*gunicorn, "vento_wsgi.server.StreamWorker"]
        case "gevent-pywsgi" | "wsgiref":
            return [python, str(TESTS / "support" / "runner.py"), server, host, str(port), target]
        case "waitress":
            return [python, "-m", "waitress", f"--listen={address}", f"--threads={THREADS}", target]
        case "cheroot":
            return [python, "-m", "cheroot", target, "--bind", address, "--threads", THREADS]
        case "uwsgi":
            return [
                *(python, "-c", "import sys, pyuwsgi; sys.exit(pyuwsgi.run(sys.argv[1:]))"),
                *("--http-socket", address, "--module", target, "--threads", THREADS),
                *("--master", "--need-app", "--die-on-term", "--single-interpreter"),
            ]
        case "mod_wsgi":
            return _apache(target, address, cwd, tmp, log)
        case "granian":
            return [
                *(python, "-m", "granian", "--interface", "wsgi", target),
                *("--host", host, "--port", str(port), "--blocking-threads", THREADS),
            ]
    raise ValueError(f"{server!r} is not one of {SERVERS}")


MODULES = {
    "gunicorn-gevent": ("gunicorn", "gevent"),
    "gunicorn-gevent_pywsgi": ("gunicorn", "gevent"),
    "gunicorn-StreamWorker": ("gunicorn", "gevent"),
    "gunicorn-gthread": ("gunicorn",),
    "gunicorn-sync": ("gunicorn",),
    "gevent-pywsgi": ("gevent",),
    "waitress": ("waitress",),
    "cheroot": ("cheroot",),
    "uwsgi": ("pyuwsgi",),
    "granian": ("granian",),
}
APACHE = Path("/usr/sbin/apache2")
APACHE_MODULES = Path("/usr/lib/apache2/modules")
APACHE_PYTHON = Path("/usr/bin/python3")  # Debian's mod_wsgi is built for this one only


def require(server: str) -> None:
    """Skip the test where `server` is not installed; fail it under CI."""
    wanted = MODULES.get(server, ())
    lacks = [name for name in wanted if importlib.util.find_spec(name) is None]
    if server == "mod_wsgi":
        files = (APACHE, APACHE_MODULES / "mod_wsgi.so", APACHE_PYTHON)
        lacks = [str(path) for path in files if not path.exists()]
    if lacks:
        missing(f"{server} needs {', '.join(lacks)}")


APACHE_CONFIG = """\
ServerName localhost
ServerRoot {run}
DefaultRuntimeDir {run}
PidFile {run}/pid
Listen {address}
ErrorLog {log}
{load}
TypesConfig /dev/null
WSGISocketPrefix {run}/wsgi
WSGIRestrictEmbedded On
WSGIDaemonProcess vento processes=1 threads={threads} python-home={home} python-path={path}
WSGIProcessGroup vento
WSGIApplicationGroup %{{GLOBAL}}
WSGIScriptAlias / {run}/application.wsgi
<Directory {run}>
    Require all granted
</Directory>
"""


def _apache(target: str, address: str, cwd: Path, tmp: Path, log: Path) -> list[str]:
    run = tmp / f"apache-{address.rpartition(':')[2]}"
    run.mkdir()
    module, _, name = target.partition(":")
    (run / "application.wsgi").write_text(f"from {module} import {name} as application\n")
    modules = ("mpm_event", "authz_core", "mime", "wsgi")
    config = run / "apache.conf"
    config.write_text(
        APACHE_CONFIG.format(
            run=run,
            address=address,
            log=log,
            load="\n".join(f"LoadModule {m}_module {APACHE_MODULES}/mod_{m}.so" for m in modules),
            threads=THREADS,
            home=_apache_home(),
            path=f"{cwd}:{ROOT}",
        )
    )
    command = [str(APACHE), "-DFOREGROUND", "-f", str(config)]
    if os.geteuid() != 0:
        return command
    # mod_wsgi refuses to run an application as root. As www-data it keeps the one right without
    # which it could not reach a checkout or a temporary directory that only root may enter.
    right = "+dac_override"
    user = ("--reuid=www-data", "--regid=www-data", "--clear-groups")
    return ["setpriv", *user, f"--inh-caps={right}", f"--ambient-caps={right}", *command]


def _apache_home() -> Path:
    """A virtual environment of Debian's Python with werkzeug in it, made once a checkout."""
    home = ROOT / ".venv" / "apache"
    wanted = f"werkzeug=={importlib.metadata.version('werkzeug')}"
    made = home / "made-with"
    home.parent.mkdir(exist_ok=True)
    with (home.parent / "apache.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made.exists() and made.read_text() == wanted):
            shutil.rmtree(home, ignore_errors=True)
            for command in (
                [str(APACHE_PYTHON), "-m", "venv", str(home)],
                [str(home / "bin" / "pip"), "install", "--quiet", wanted],
            ):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
            made.write_text(wanted)
    return home


# The client.


class Head(NamedTuple):
    status: int
    headers: Headers
    raw: bytes


class Piece(NamedTuple):
    data: bytes
    at: float  # time.monotonic() when it was received; equal for pieces that came together


class Body(NamedTuple):
    data: bytes
    complete: bool


@dataclass
class Raw(Closing):
    """One connection: requests are written as bytes, responses read as they arrive.

    `complete` tells after the last piece whether the body ended as its framing promised: with
    the final chunk, with all of Content-Length, or, where neither is given, by an orderly close.
    """

    sock: socket.socket
    running: Running
    complete: bool = False
    _method: bytes = b""
    _body: Iterator[bytes] | None = None
    _buffer: bytearray = field(default_factory=bytearray)
    _at: float = 0.0

    def send(self, data: bytes) -> None:
        self._method = self._method or data.partition(b" ")[0]
        self.sock.sendall(data)

    def ask(self, method: str, target: str, *fields: str) -> None:
        """Send a request that has no body."""
        lines = (f"{method} {target} HTTP/1.1", f"Host: {self.running.host}", *fields, "", "")
        self.send("\r\n".join(lines).encode("latin-1"))

    def request(self, method: str, target: str, *fields: str) -> Head:
        """Send a request that has no body, and read the head of its response."""
        self.ask(method, target, *fields)
        return self.read_head()

    def read_head(self) -> Head:
        try:
            raw = self._until(b"\r\n\r\n")
        except (EOFError, ConnectionError) as error:
            pytest.fail(f"no response, {error!r}; the server's log:\n{self.running.log()}")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        status = int(first.split(" ", 2)[1])
        headers = Headers([(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)])
        self._body = self._framed(status, headers)
        self.complete = False
        if status >= 200:
            self._method = b""
        return Head(status, headers, raw)

    def read_piece(self) -> Piece | None:
        """The next bytes of the body; None when no more will come."""
        if self._body is None:
            return None
        try:
            return Piece(next(self._body), self._at)
        except StopIteration:
            self.complete = True
        except (EOFError, ConnectionError):
            pass
        self._body = None
        return None

    def read_all(self) -> Body:
        data = b"".join(piece.data for piece in iter(self.read_piece, None))
        return Body(data, self.complete)

    def read_rest(self) -> bytes:
        """All bytes until the end of the connection, framing included."""
        with suppress(EOFError, ConnectionError):
            while True:
                self._receive()
        return self._cut(len(self._buffer))

    def close(self) -> None:
        self.sock.close()

    def _framed(self, status: int, headers: Headers) -> Iterator[bytes]:
        """RFC 9112 section 6.3: what ends this body."""
        if self._method == b"HEAD" or status < 200 or status in (204, 304):
            return iter(())
        if headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunked()
        if "Content-Length" in headers:
            return self._sized(int(headers["Content-Length"]))
        return self._closed()

    def _chunked(self) -> Iterator[bytes]:
        while size := int(self._until(b"\r\n").partition(b";")[0], 16):
            yield from self._sized(size)
            if (end := self._until(b"\r\n")) != b"\r\n":
                raise ValueError(f"a chunk goes on after its {size} bytes: {end!r}")
        while self._until(b"\r\n") != b"\r\n":
            pass

    def _sized(self, left: int) -> Iterator[bytes]:
        while left:
            data = self._some(left)
            left -= len(data)
            yield data

    def _closed(self) -> Iterator[bytes]:
        with suppress(EOFError):
            while True:
                yield self._some(1 << 16)

    def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            self._receive()
        return self._cut(at + len(end))

    def _some(self, limit: int) -> bytes:
        if not self._buffer:
            self._receive()
        return self._cut(limit)

    def _cut(self, length: int) -> bytes:
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _receive(self) -> None:
        data = self.sock.recv(1 << 16)
        self._at = time.monotonic()
        if not data:
            raise EOFError("the server closed the connection")
        self._buffer += data


def connect(running: Running, timeout: float = 30) -> Raw:
    """A new connection; `timeout` bounds each wait for bytes, in seconds."""
    sock = socket.create_connection((running.host, running.port), timeout)
    if running.tls is not None:
        try:
            sock = running.tls.wrap_socket(sock, server_hostname=running.host)
        except BaseException:
            sock.close()
            raise
    return Raw(sock, running)


def reset_on_close(sock: socket.socket) -> None:
    """Have closing the socket reset the connection, so that the server's next write fails."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_reset(raw: Raw) -> bool:
    """Read until the connection ends; whether it ends with a reset."""
    try:
        while raw.sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


def target(path: str, **query: object) -> str:
    """`path` with a query, for requests whose values need no escapes."""
    return path + "?" + "&".join(f"{key}={value}" for key, value in query.items())


def get(running: Running, path: str, *fields: str, method: str = "GET") -> tuple[Head, Body]:
    """One request on a connection of its own."""
    with connect(running) as raw:
        return raw.request(method, path, *fields), raw.read_all()


def take(raw: Raw, expected: bytes) -> None:
    """Read `expected`, and see that nothing more has come with it."""
    got = b""
    while len(got) < len(expected):
        piece = raw.read_piece()
        assert piece is not None, f"the body ended after {got!r}"
        got += piece.data
    assert got == expected


class Chunked(Closing):
    """The chunks of a response as they are framed; an HTTP library would join them."""

    def __init__(self, raw: Raw) -> None:
        self._file = raw.sock.makefile("rb")

    def head(self) -> bytes:
        lines = b"".join(iter(self._file.readline, b"\r\n"))
        assert b"chunked" in lines, lines
        return lines

    def next(self) -> bytes | None:
        """A chunk; None at the final one. RFC 9112, section 7.1, leading zeros included."""
        size = self._file.readline()
        assert re.fullmatch(rb"[0-9A-Fa-f]+\r\n", size), f"no chunk-size: {size!r}"
        data = self._file.read(int(size, 16))
        assert self._file.readline() == b"\r\n"
        return data or None

    def rest(self) -> bytes:
        return b"".join(iter(self.next, None))

    def close(self) -> None:
        self._file.close()
