"""Rows and figures: what is measured, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .server import Server

__all__ = ["CPU", "LATENESS", "P99", "Ask", "Figure", "Row", "Sample", "late"]

Sample = dict[str, float]
"""The result of one measurement: the figures of its row by name, in SI units or bytes."""


@dataclass(frozen=True)
class Ask:
    """How much a row measures. scale: a factor of the full amount. file: the file to send."""

    scale: float
    file: Path

    def amount(self, full: int, least: int) -> int:
        return max(least, round(full * self.scale))


@dataclass(frozen=True)
class Figure:
    """One figure of a sample. It is shown in `unit`; factor: units in 1 second, byte and so on.

    more: whether the difference to raw WSGI is also shown.
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
"""How late the tokens or events were; the part of the expected ones that arrived (a server at its
limit makes fewer); and the part of a core that the client took (near 1 the client is the late one).
"""


def late(seconds: list[float]) -> Sample:
    """The percentiles of how late each token or event was."""
    seconds.sort()
    count = len(seconds)
    return {"p50_seconds": seconds[count // 2], "p99_seconds": seconds[count * 99 // 100]}


@dataclass(frozen=True)
class Row:
    """One row of the table. main: the figure that is compared. more: figures shown beside it.

    once: measured in the first round only, for figures that do not vary.
    """

    name: str
    title: str
    main: Figure
    measure: Callable[[Server, Ask], Sample]
    more: tuple[Figure, ...] = ()
    once: bool = False
