"""What every Python application serves. They differ in nothing but their framework."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

HELLO = "Hello"
TOKENS = 200
PERIOD = 0.05
"""Seconds between two tokens of a slow stream."""

LIVE_PERIOD = 0.5
"""Seconds between two tokens of a stream whose memory is measured: it mostly waits."""

ROWS = 100_000

FILE = os.environ.get("BENCH_FILE", "")


def two() -> Iterator[bytes]:
    yield b"first\n"
    yield b"second\n"


def tokens() -> Iterator[bytes]:
    for number in range(TOKENS):
        yield b"data: token %d\n\n" % number


def tick(number: int) -> bytes:
    """A token with the time.monotonic() at which it was made."""
    return b"data: %d %.6f\n\n" % (number, time.monotonic())


def ticks(period: float = PERIOD) -> Iterator[bytes]:
    number = 0
    while True:
        yield tick(number)
        number += 1
        time.sleep(period)


def records() -> Iterator[dict[str, Any]]:
    """The result of a query."""
    for number in range(ROWS):
        yield {"id": number, "name": "Ada Lovelace", "score": 3.5}


def lines() -> Iterator[str]:
    """The same records as NDJSON, one chunk a row."""
    for record in records():
        yield json.dumps(record, separators=(",", ":")) + "\n"
