"""``vento-wsgi doctor`` on the command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys

from ...exceptions import NotExamined
from ...http_syntax import TOKEN
from ..terminal import safe, write
from .examination import examine
from .report import LONGEST, report, text
from .request import Target

__all__ = ["add"]

SECONDS = 20.0
"""Longer than the default heartbeat interval of our event streams, 15 s."""

_FIELD = re.compile(TOKEN + r":[^\r\n\0]*")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="examine a stream through its proxies",
        description="Opens a stream and says what proxies, compression and timeouts do to it. "
        "Exits with 0 if it is healthy, 1 if something is wrong, 2 if it could not be examined.",
    )
    parser.set_defaults(command=_doctor)
    parser.add_argument("url", metavar="URL", help="http:// or https://, as clients use it")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        help="how long to read (%(default)g); at least the longest silence to survive",
    )
    parser.add_argument(
        "--header",
        type=_field,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of the requests; may be repeated",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=("events", "stream", "file"),
        help="what the URL serves (default: decided from its headers)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--insecure", action="store_true", help="accept any certificate; for your own servers"
    )


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if 0 < seconds <= 86400:
        return seconds
    raise argparse.ArgumentTypeError(f"seconds are a number above 0, at most 86400, not {value!r}")


def _field(value: str) -> str:
    if _FIELD.fullmatch(value) and value.isprintable():
        return value
    raise argparse.ArgumentTypeError(f"a header is 'Name: value', not {value!r}")


def _doctor(options: argparse.Namespace) -> int:
    try:
        found = examine(
            Target.of(options.url),
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
