"""Contenders: who is compared, and how each is started, as its own documentation advises."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from .peers import Peers

__all__ = ["APPS", "CONTENDERS", "STREAMS", "Contender", "Place"]

APPS = Path(__file__).resolve().parent / "apps"
STREAMS = ("two", "tokens", "ticks")
ALL = (*STREAMS, "file")
PYTHON = (*ALL, "rows")


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
    forks: whether a child serves, not the process that is started.
    """

    name: str
    title: str
    need: Callable[[Peers], None]
    command: Callable[[Peers, Place], list[str]]
    forks: bool = False
    rows: tuple[str, ...] = ALL


def _gunicorn(name: str, title: str, worker: str, module: str, *packages: str) -> Contender:
    def command(peers: Peers, place: Place) -> list[str]:
        return [
            *(str(peers.python), "-m", "gunicorn", "-c", str(APPS / "gunicorn_settings.py")),
            *("-b", f"127.0.0.1:{place.port}", "-k", worker, f"bench.apps.{module}:app"),
        ]

    def need(peers: Peers) -> None:
        peers.need_python(packages)

    rows = PYTHON if module in ("raw", "ours", "flask_app") else ALL
    return Contender(name, title, need, command, forks=True, rows=rows)


def _uvicorn(peers: Peers, place: Place) -> list[str]:
    return [
        *(str(peers.python), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "75"),
        *("--no-access-log", "--log-level", "warning", "bench.apps.starlette_app:app"),
    ]


def _nginx(peers: Peers, place: Place) -> list[str]:
    template = Template((APPS / "nginx.conf").read_text("utf-8"))
    config = place.folder / "nginx.conf"
    config.write_text(
        template.substitute(
            port=place.port, folder=place.folder, file=place.file, user=getpass.getuser()
        ),
        "utf-8",
    )
    return [str(peers.nginx), "-e", "stderr", "-p", str(place.folder), "-c", str(config)]


CONTENDERS = (
    _gunicorn("raw", "raw WSGI, gevent", "gevent", "raw"),
    _gunicorn("ours", "vento_wsgi, StreamWorker", "vento_wsgi.server.StreamWorker", "ours"),
    _gunicorn("ours-gevent", "vento_wsgi, gevent", "gevent", "ours"),
    _gunicorn("flask", "Flask, gevent", "gevent", "flask_app", "flask"),
    _gunicorn("falcon", "Falcon, gevent", "gevent", "falcon_app", "falcon"),
    _gunicorn("bottle", "Bottle, gevent", "gevent", "bottle_app", "bottle"),
    Contender(
        "starlette",
        "Starlette, uvicorn",
        lambda peers: peers.need_python(("starlette", "uvicorn", "uvloop", "httptools")),
        _uvicorn,
    ),
    Contender(
        "bun", "Bun", Peers.need_bun, lambda peers, _: [str(peers.bun), str(APPS / "bun.ts")]
    ),
    Contender("node", "Node", Peers.need_node, lambda *_: ["node", str(APPS / "node.mjs")]),
    Contender("nginx", "nginx", Peers.need_nginx, _nginx, forks=True, rows=("file",)),
)
