"""``vento-wsgi doctor`` on the command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys

from ...exceptions import NotExamined
from ..terminal import safe, write
from .examination import examine
from .report import LONGEST, report, text
from .request import Place

__all__ = ["add"]

SECONDS = 20.0
"""Longer than the 15 s after which our event streams send a heartbeat."""

_FIELD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the parser."""
    parser = commands.add_parser(
        "doctor",
        help="look at a stream through what lies between",
        description="Opens a stream and says what proxies, compression and timeouts do to it. "
        "Exits with 0 if it is healthy, 1 if something is wrong, 2 if it could not be looked at.",
    )
    parser.set_defaults(command=_doctor)
    parser.add_argument("url", metavar="URL", help="http:// or https://, as clients see it")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        help="how long to read (%(default)g); as long as a silence that should be survived",
    )
    parser.add_argument(
        "--header",
        type=_field,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of the requests; may be given again",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=("events", "stream", "file"),
        help="what it is meant to be (told by its Content-Type otherwise)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--insecure", action="store_true", help="take any certificate; for your own servers"
    )


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if 0 < seconds <= 86400:
        return seconds
    raise argparse.ArgumentTypeError(f"seconds are a number above 0, not {value!r}")


def _field(value: str) -> str:
    if _FIELD.fullmatch(value) and value.isprintable():
        return value
    raise argparse.ArgumentTypeError(f"a header is 'Name: value', not {value!r}")


def _doctor(options: argparse.Namespace) -> int:
    try:
        found = examine(
            Place.of(options.url),
            seconds=options.seconds,
            fields=options.header,
            kind=options.kind,
            insecure=options.insecure,
        )
    except NotExamined as error:
        if options.json:
            write(json.dumps({"url": options.url, "error": str(error)}) + "\n")
        write(f"vento-wsgi doctor: {safe(str(error), LONGEST)}\n", sys.stderr)
        return 2
    told = report(found)
    if options.json:
        write(json.dumps(told, indent=2) + "\n")
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = min(100, max(40, shutil.get_terminal_size().columns))
        write(text(found, width=width, colour=colour))
    return 0 if told["healthy"] else 1
