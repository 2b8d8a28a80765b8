"""Contenders: who is compared, and how each is started, as its own documentation advises."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from .peers import Peers

__all__ = ["CONTENDERS", "Contender", "Place"]

APPS = Path(__file__).resolve().parent / "apps"
STREAMS = ("two", "tokens", "ticks")
PLAIN = (*STREAMS, "file")
ALL = (*PLAIN, "fanout", "idle")
MEMORY = "memory://"
REDIS = "redis://127.0.0.1:{redis}/0"


@dataclass(frozen=True)
class Place:
    """Where a contender serves: its port, the folder for its files, the file that it sends."""

    port: int
    folder: Path
    file: Path


@dataclass(frozen=True)
class Contender:
    """One who is compared.

    need: has what it takes installed. command: starts it in the foreground.
    workers: how many children serve; 0 if it is the process that is started.
    broker: the url of what its events go through, with {folder} and {redis}, a port.
    """

    name: str
    title: str
    need: Callable[[Peers], None]
    command: Callable[[Peers, Place], list[str]]
    rows: tuple[str, ...] = PLAIN
    workers: int = 0
    broker: str = ""

    @property
    def needs_redis(self) -> bool:
        return "{redis}" in self.broker


def _gunicorn(
    name: str,
    title: str,
    worker: str,
    module: str,
    *packages: str,
    rows: tuple[str, ...] = PLAIN,
    workers: int = 1,
    broker: str = "",
) -> Contender:
    def need(peers: Peers) -> None:
        peers.need_python(packages)
        if contender.needs_redis:
            peers.need_redis()

    def command(peers: Peers, place: Place) -> list[str]:
        return [
            *(str(peers.python), "-m", "gunicorn", "-c", str(APPS / "gunicorn_settings.py")),
            *("-b", f"127.0.0.1:{place.port}", "-k", worker, "-w", str(workers)),
            f"bench.apps.{module}:app",
        ]

    contender = Contender(name, title, need, command, rows, workers, broker)
    return contender


def _uvicorn(peers: Peers, place: Place) -> list[str]:
    return [
        *(str(peers.python), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "75"),
        *("--no-access-log", "--log-level", "warning", "bench.apps.starlette_app:app"),
    ]


def _nginx(template: str) -> Callable[[Peers, Place], list[str]]:
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

    return command


def _c(peers: Peers, place: Place) -> list[str]:
    return [str(peers.compiled(APPS / "fanout.c", place.folder)), str(place.port)]


WORKER = "vento_wsgi.server.StreamWorker"
CONTENDERS = (
    _gunicorn("raw", "raw WSGI, gevent", "gevent", "raw", rows=(*ALL, "rows")),
    _gunicorn(
        "ours",
        "vento_wsgi, StreamWorker",
        WORKER,
        "ours",
        rows=(*ALL, "rows", "many"),
        broker=MEMORY,
    ),
    _gunicorn(
        "ours-gevent",
        "vento_wsgi, gevent",
        "gevent",
        "ours",
        rows=(*PLAIN, "rows", "fanout"),
        broker=MEMORY,
    ),
    _gunicorn(
        "ours-sqlite",
        "vento_wsgi, 2 workers, SQLite",
        WORKER,
        "ours",
        rows=("fanout",),
        workers=2,
        broker="sqlite:///{folder}/broker.db",
    ),
    _gunicorn(
        *("ours-redis", "vento_wsgi, Redis", WORKER, "ours", "redis"),
        rows=("fanout",),
        broker=f"{REDIS}?name=bench",
    ),
    _gunicorn(
        *("flask", "Flask, gevent", "gevent", "flask_app", "flask"),
        rows=(*PLAIN, "rows"),
    ),
    _gunicorn(
        *("flask-sse", "Flask-SSE, gevent, Redis", "gevent", "flask_sse_app", "flask-sse", "redis"),
        rows=("fanout",),
        broker=REDIS,
    ),
    _gunicorn("falcon", "Falcon, gevent", "gevent", "falcon_app", "falcon"),
    _gunicorn("bottle", "Bottle, gevent", "gevent", "bottle_app", "bottle"),
    Contender(
        "starlette",
        "Starlette, uvicorn",
        lambda peers: peers.need_python(
            ("starlette", "sse-starlette", "uvicorn", "uvloop", "httptools")
        ),
        _uvicorn,
        rows=ALL,
    ),
    Contender(
        "bun",
        "Bun",
        Peers.need_bun,
        lambda peers, _: [str(peers.bun), str(APPS / "bun.ts")],
        rows=ALL,
    ),
    Contender(
        "node",
        "Node",
        Peers.need_node,
        lambda *_: ["node", str(APPS / "node.mjs")],
        rows=ALL,
    ),
    Contender("nginx", "nginx", Peers.need_nginx, _nginx("nginx.conf"), rows=("file",), workers=1),
    Contender(
        "nchan",
        "nginx with nchan",
        Peers.need_nchan,
        _nginx("nchan.conf"),
        rows=("fanout", "idle"),
        workers=1,
    ),
    Contender(
        "c",
        "a loop of send() in C",
        Peers.need_compiler,
        _c,
        rows=("fanout", "idle", "many"),
    ),
)
