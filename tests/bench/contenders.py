"""The contenders: which servers and applications are compared, and how each one is started.

Each is configured as its own documentation advises.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from .peers import Peers

__all__ = ["CONTENDERS", "MEMORY", "Contender", "Launch", "Place"]

APPS = Path(__file__).resolve().parent / "apps"
MEMORY = "memory://"
REDIS = "redis://127.0.0.1:{redis}/0"


@dataclass(frozen=True)
class Place:
    """Where a contender serves: its port, a folder for its own files, and the file to send."""

    port: int
    folder: Path
    file: Path


@dataclass(frozen=True)
class Launch:
    """How a server is installed and started.

    install: installs what is missing; raises RuntimeError if that fails.
    command: starts the server in the foreground.
    workers: the number of child processes that serve; 0 if the started process serves.
    """

    install: Callable[[Peers], None]
    command: Callable[[Peers, Place], list[str]]
    workers: int = 0


@dataclass(frozen=True)
class Contender:
    """One server with one application.

    rows: the names of the rows that it is measured in.
    broker: the URL that its events go through. {folder} and {redis} (a port) are filled in.
    """

    name: str
    title: str
    launch: Launch
    rows: tuple[str, ...]
    broker: str = ""

    @property
    def needs_redis(self) -> bool:
        return "{redis}" in self.broker

    def install(self, peers: Peers) -> None:
        """Install what is missing. Raises RuntimeError if that fails."""
        self.launch.install(peers)
        if self.needs_redis:
            peers.need_redis()


GEVENT = "gevent"
STREAM_WORKER = "vento_wsgi.server.StreamWorker"


def _gunicorn(worker: str, module: str, *packages: str, workers: int = 1) -> Launch:
    def command(peers: Peers, place: Place) -> list[str]:
        return [
            *(str(peers.python), "-m", "gunicorn", "-c", str(APPS / "gunicorn_settings.py")),
            *("-b", f"127.0.0.1:{place.port}", "-k", worker, "-w", str(workers)),
            f"bench.apps.{module}:app",
        ]

    return Launch(lambda peers: peers.need_python(packages), command, workers)


def _granian(module: str) -> Launch:
    """Granian in WSGI mode, on one core.

    Its README ("Workers and threads") advises very few blocking threads for an application that
    answers within a millisecond. A blocking thread runs one generator until its end, and the
    generators of the rows that Granian is in never wait, so one thread is enough.
    """

    def command(peers: Peers, place: Place) -> list[str]:
        return [
            *(str(peers.python), "-m", "granian", "--interface", "wsgi", "--http", "1"),
            *("--host", "127.0.0.1", "--port", str(place.port), "--no-ws"),
            *("--workers", "1", "--blocking-threads", "1", f"bench.apps.{module}:app"),
        ]

    return Launch(lambda peers: peers.need_python(("granian",)), command, workers=1)


def _uvicorn(module: str, *packages: str) -> Launch:
    def command(peers: Peers, place: Place) -> list[str]:
        return [
            *(str(peers.python), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(place.port)),
            *("--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "75"),
            *("--no-access-log", "--log-level", "warning", f"bench.apps.{module}:app"),
        ]

    packages = (*packages, "uvicorn", "uvloop", "httptools")
    return Launch(lambda peers: peers.need_python(packages), command)


def _nginx(template: str, install: Callable[[Peers], None]) -> Launch:
    def command(peers: Peers, place: Place) -> list[str]:
        text = Template((APPS / template).read_text("utf-8")).substitute(
            port=place.port,
            folder=place.folder,
            file=place.file,
            user=getpass.getuser(),
            nchan=peers.nchan,
        )
        config = place.folder / template
        config.write_text(text, "utf-8")
        return [str(peers.nginx), "-e", "stderr", "-p", str(place.folder), "-c", str(config)]

    return Launch(install, command, workers=1)


def _bun(peers: Peers, _place: Place) -> list[str]:
    return [str(peers.bun), str(APPS / "bun.ts")]


def _node(_peers: Peers, _place: Place) -> list[str]:
    return ["node", str(APPS / "node.mjs")]


def _c(peers: Peers, place: Place) -> list[str]:
    return [str(peers.compiled(APPS / "fanout.c", place.folder)), str(place.port)]


CONTENDERS = (
    Contender(
        "raw",
        "raw WSGI, gevent",
        _gunicorn(GEVENT, "raw"),
        ("two", "tokens", "hello", "ticks", "live", "rows", "file", "fanout", "idle"),
    ),
    Contender(
        "raw-streamworker",
        "raw WSGI, StreamWorker",
        _gunicorn(STREAM_WORKER, "raw"),
        ("two", "tokens", "hello"),
    ),
    Contender(
        "ours",
        "vento_wsgi, StreamWorker",
        _gunicorn(STREAM_WORKER, "ours"),
        ("two", "tokens", "ticks", "live", "rows", "file", "fanout", "idle", "publish", "many"),
        MEMORY,
    ),
    Contender(
        "ours-gevent",
        "vento_wsgi, gevent",
        _gunicorn(GEVENT, "ours"),
        ("two", "tokens", "ticks", "fanout"),
        MEMORY,
    ),
    Contender(
        "ours-sqlite",
        "vento_wsgi, 2 workers, SQLite",
        _gunicorn(STREAM_WORKER, "ours", workers=2),
        ("fanout", "publish"),
        "sqlite:///{folder}/broker.db",
    ),
    Contender(
        "ours-redis",
        "vento_wsgi, Redis",
        _gunicorn(STREAM_WORKER, "ours", "redis"),
        ("fanout", "publish"),
        f"{REDIS}?name=bench",
    ),
    Contender(
        "flask",
        "Flask, gevent",
        _gunicorn(GEVENT, "flask_app", "flask"),
        ("two", "tokens", "hello", "live", "file"),
    ),
    Contender(
        "flask-streamworker",
        "Flask, StreamWorker",
        _gunicorn(STREAM_WORKER, "flask_app", "flask"),
        ("hello",),
    ),
    Contender(
        "django",
        "Django, gevent",
        _gunicorn(GEVENT, "django_app", "django"),
        ("hello",),
    ),
    Contender(
        "django-streamworker",
        "Django, StreamWorker",
        _gunicorn(STREAM_WORKER, "django_app", "django"),
        ("hello",),
    ),
    Contender(
        "flask-sse",
        "Flask-SSE, gevent, Redis",
        _gunicorn(GEVENT, "flask_sse_app", "flask-sse", "redis"),
        ("fanout",),
        REDIS,
    ),
    Contender(
        "falcon",
        "Falcon, gevent",
        _gunicorn(GEVENT, "falcon_app", "falcon"),
        ("two",),
    ),
    Contender(
        "bottle",
        "Bottle, gevent",
        _gunicorn(GEVENT, "bottle_app", "bottle"),
        ("two",),
    ),
    Contender(
        "granian",
        "raw WSGI, Granian",
        _granian("raw"),
        ("two", "tokens"),
    ),
    Contender(
        "starlette",
        "Starlette, uvicorn",
        _uvicorn("starlette_app", "starlette", "sse-starlette"),
        ("two", "tokens", "ticks", "live", "fanout", "idle"),
    ),
    Contender(
        "bun",
        "Bun",
        Launch(Peers.need_bun, _bun),
        ("two", "tokens", "ticks", "live", "file", "fanout", "idle"),
    ),
    Contender(
        "node",
        "Node",
        Launch(Peers.need_node, _node),
        ("two", "tokens", "ticks", "live", "fanout", "idle"),
    ),
    Contender(
        "nginx",
        "nginx",
        _nginx("nginx.conf", Peers.need_nginx),
        ("file",),
    ),
    Contender(
        "nchan",
        "nginx with nchan",
        _nginx("nchan.conf", Peers.need_nchan),
        ("fanout", "idle"),
    ),
    Contender(
        "c",
        "a loop of send() in C",
        Launch(Peers.need_compiler, _c),
        ("fanout", "many"),
    ),
)
