"""Rows and their figures: what is measured, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .server import Server

__all__ = ["CPU", "LATENESS", "P99", "Ask", "Figure", "Row", "Sample", "late"]

Sample = dict[str, float]
"""What one measurement found: each figure of its row by its name, in SI units or bytes."""


@dataclass(frozen=True)
class Ask:
    """What a row may ask for. scale: of the full amount. file: what is sent of it."""

    scale: float
    file: Path

    def amount(self, full: int, least: int) -> int:
        return max(least, round(full * self.scale))


@dataclass(frozen=True)
class Figure:
    """One figure of a sample. It is shown in `unit`, of which 1 (second, byte, …) has `factor`.

    more: whether it is also of interest how much more it is than that of raw WSGI.
    """

    name: str
    title: str
    unit: str
    factor: float
    digits: int = 1
    more: bool = False

    def show(self, value: float, sign: str = "-") -> str:
        return format(value * self.factor, f"{sign},.{self.digits}f")


CPU = Figure("cpu_seconds", "CPU", "µs", 1e6)
P50 = Figure("p50_seconds", "p50", "ms", 1e3, 2, more=True)
P99 = Figure("p99_seconds", "p99", "ms", 1e3, 2, more=True)
LATENESS = (
    P50,
    P99,
    Figure("came", "came", "%", 100, 0),
    Figure("client", "client's core", "%", 100, 0),
)
"""How late pieces were; the part of those due that came, a server at its limit makes fewer; the
part of a core that the client took: near 1 it is the client that is late."""


def late(seconds: list[float]) -> Sample:
    """The figures of lateness that follow from how late each piece was."""
    seconds.sort()
    count = len(seconds)
    return {"p50_seconds": seconds[count // 2], "p99_seconds": seconds[count * 99 // 100]}


@dataclass(frozen=True)
class Row:
    """One row of the table. main: what is compared. more: what is shown beside it.

    once: whether the first round is enough.
    """

    name: str
    title: str
    main: Figure
    measure: Callable[[Server, Ask], Sample]
    more: tuple[Figure, ...] = ()
    once: bool = False
