"""What each application in Python serves, so that they differ in nothing but their framework."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

TOKENS = 200
PERIOD = 0.05
"""Seconds between two tokens of a slow stream."""

ROWS = 100_000

FILE = os.environ.get("BENCH_FILE", "")


def two() -> Iterator[bytes]:
    yield b"first\n"
    yield b"second\n"


def tokens() -> Iterator[bytes]:
    for number in range(TOKENS):
        yield b"data: token %d\n\n" % number


def tick(number: int) -> bytes:
    """A token that tells when it was made."""
    return b"data: %d %.6f\n\n" % (number, time.monotonic())


def ticks() -> Iterator[bytes]:
    number = 0
    while True:
        yield tick(number)
        number += 1
        time.sleep(PERIOD)


def records() -> Iterator[dict[str, Any]]:
    """What a query gives."""
    for number in range(ROWS):
        yield {"id": number, "name": "Ada Lovelace", "score": 3.5}


def lines() -> Iterator[str]:
    """The same as NDJSON, as one writes it: a chunk a row."""
    for record in records():
        yield json.dumps(record, separators=(",", ":")) + "\n"
