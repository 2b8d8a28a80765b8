"""The parser of the command line, and the commands ``run`` and ``routes``."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from collections.abc import Sequence

from .. import __version__
from ..app import App
from ..exceptions import AppNotFound
from ..server.importer import load, search
from .doctor.command import add as add_doctor
from .top.command import add as add_top

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, which is 2 if an argument is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if "app_dir" in options:
            search(options.app_dir)
        return int(options.command(options))
    except AppNotFound as error:
        parser.error(str(error))
    except (socket.gaierror, UnicodeError) as error:
        parser.error(f"--host: {options.host!r} is not an address of this machine: {error}")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            parser.error(f"port {options.port} on {options.host} is taken: use another --port")
        if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES):
            parser.error(f"cannot listen on {options.host}:{options.port}: {error.strerror}")
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vento-wsgi", description="Serve streams over WSGI with gunicorn and gevent."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("target", metavar="module:app", help="the application")
    common.add_argument(
        "--app-dir",
        default=".",
        metavar="DIR",
        help="where to look for the module (default: the current directory)",
    )

    run = commands.add_parser("run", parents=[common], help="serve an application")
    run.set_defaults(command=_run)
    run.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    run.add_argument("--port", type=_port, default=8000, help="0: any free port (%(default)s)")
    run.add_argument(
        "--workers",
        type=_workers,
        default=os.environ.get("WEB_CONCURRENCY", "1"),
        help="worker processes ($WEB_CONCURRENCY, or 1)",
    )
    run.add_argument("--reload", action="store_true", help="restart when the code changes")

    routes = commands.add_parser("routes", parents=[common], help="list an application's routes")
    routes.set_defaults(command=_routes)
    add_doctor(commands)
    add_top(commands)
    return parser


def _port(value: str) -> int:
    if value.isascii() and value.isdigit() and int(value) < 65536:
        return int(value)
    raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {value!r}")


def _workers(value: str) -> int:
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    raise argparse.ArgumentTypeError(f"the number of workers is 1 or more, not {value!r}")


def _run(options: argparse.Namespace) -> int:
    from ..server.run import run

    run(
        options.target,
        host=options.host,
        port=options.port,
        workers=options.workers,
        reload=options.reload,
    )
    return 0


def _routes(options: argparse.Namespace) -> int:
    app = load(options.target)
    if not isinstance(app, App):
        raise AppNotFound(
            f"{options.target!r} is {type(app).__name__}, not an App of vento_wsgi: "
            "its routes cannot be listed"
        )
    rows = [(",".join(sorted(r.methods)), r.path, r.name) for r in app.routes()]
    rows += [("*", f"{prefix}/…", repr(mounted)) for prefix, mounted in app.mounts().items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for methods, path, name in rows:
        print(f"{methods:<{widths[0]}}  {path:<{widths[1]}}  {name}")
    return 0
