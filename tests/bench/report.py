"""The report: medians, ratios, what was wanted; as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .contenders import CONTENDERS
from .measure import ROWS, Row, Sample

__all__ = ["Results"]

BASE = "raw"
MAX_ADDED = 0.002
"""Seconds that our tokens may be later than raw ones at the 99th percentile."""


@dataclass(frozen=True)
class Target:
    """Our CPU time is to be at most `limit` times that of another."""

    row: str
    other: str
    limit: float


TARGETS = (
    Target("two", "raw", 0.9),
    Target("two", "flask", 0.6),
    Target("tokens", "raw", 0.15),
    Target("tokens", "bun", 1.2),
    Target("ticks", "raw", 1.0),
    Target("file", "raw", 1.0),
    Target("file", "nginx", 1.1),
)
TITLES = {contender.name: contender.title for contender in CONTENDERS}


class Results:
    """Samples by row, contender and round, and what follows from them.

    left_out: why a contender is missing, by its name, or by row and name.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        self.left_out: dict[str, str] = {}

    def add(self, row: str, contender: str, sample: Sample) -> None:
        self._samples.setdefault((row, contender), []).append(sample)

    def drop(self, row: str, contender: str, why: str) -> None:
        self._samples.pop((row, contender), None)
        self.left_out[f"{row}: {contender}"] = why

    def dropped(self, row: str, contender: str) -> bool:
        return f"{row}: {contender}" in self.left_out

    @property
    def rows(self) -> list[Row]:
        """Those that have figures."""
        return [row for row in ROWS if any(name == row.name for name, _ in self._samples)]

    def contenders(self, row: str) -> list[str]:
        """Those that have figures in a row, in the order in which they are listed."""
        return [name for name in TITLES if (row, name) in self._samples]

    def cpu(self, row: str, contender: str) -> float:
        """Seconds of CPU time for a unit, the median."""
        return median(sample.cpu for sample in self._samples[row, contender])

    def ratio(self, row: str, contender: str, other: str = BASE) -> float | None:
        """The median of the ratios within the rounds."""
        ours, others = (self._samples.get((row, name), []) for name in (contender, other))
        if not ours or not others:
            return None
        return median(one.cpu / another.cpu for one, another in zip(ours, others))

    def slow(self, row: str, contender: str, figure: str) -> float | None:
        """The median of a figure of Slowness."""
        samples = self._samples.get((row, contender), [])
        figures = [getattr(sample.slowness, figure) for sample in samples if sample.slowness]
        return median(figures) if figures else None

    def added(self, row: str, contender: str, figure: str) -> float | None:
        """Seconds by which tokens are later than raw ones."""
        own, base = (self.slow(row, name, figure) for name in (contender, BASE))
        return None if own is None or base is None else own - base

    def targets(self) -> Iterator[tuple[str, str, float, float]]:
        """Row, what is compared, the limit, what was measured."""
        for target in TARGETS:
            measured = self.ratio(target.row, "ours", target.other)
            if measured is not None:
                yield target.row, f"ours / {target.other}", target.limit, measured
        late = self.added("ticks", "ours", "p99")
        if late is not None:
            yield "ticks", "ms that p99 is later than raw", MAX_ADDED * 1e3, late * 1e3

    def json(self) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for row in self.rows:
            rows[row.name] = {"title": row.title, "contenders": {}}
            for name in self.contenders(row.name):
                figures: dict[str, Any] = {
                    "cpu_seconds": self.cpu(row.name, name),
                    "to_raw": self.ratio(row.name, name),
                    "rounds": [asdict(sample) for sample in self._samples[row.name, name]],
                }
                for figure in ("p50", "p99"):
                    if self.slow(row.name, name, figure) is not None:
                        figures[f"{figure}_seconds"] = self.slow(row.name, name, figure)
                        figures[f"{figure}_seconds_added"] = self.added(row.name, name, figure)
                rows[row.name]["contenders"][name] = figures
        targets = [
            dict(zip(("row", "what", "limit", "measured"), target)) for target in self.targets()
        ]
        return {"rows": rows, "targets": targets, "left_out": self.left_out}

    def markdown(self) -> str:
        rows = self.rows
        lines = ["CPU time of the server; in bold, as a ratio to raw WSGI.", ""]
        heads = ["", *(row.title for row in rows)]
        lines += [_line(heads), _line(["---", *("---:" for _ in rows)])]
        for name, title in TITLES.items():
            if any(name in self.contenders(row.name) for row in rows):
                lines.append(_line([title, *(self._cell(row, name) for row in rows)]))
        lines += self._lateness()
        if targets := list(self.targets()):
            lines += [
                "",
                _line(["target", "", "at most", "measured", ""]),
                "|---|---|---:|---:|---|",
            ]
            titles = {row.name: row.title for row in ROWS}
            for row_name, what, limit, measured in targets:
                met = "met" if measured <= limit else "missed"
                lines.append(_line([titles[row_name], what, f"{limit:g}", f"{measured:.2f}", met]))
        if self.left_out:
            lines += ["", *(f"- left out: {name}: {why}" for name, why in self.left_out.items())]
        return "\n".join(lines)

    def _cell(self, row: Row, name: str) -> str:
        if name not in self.contenders(row.name):
            return "–"
        ratio = self.ratio(row.name, name)
        figure = f"{self.cpu(row.name, name) * row.in_second:,.1f} {row.unit}"
        return figure if ratio is None else f"{figure} **{ratio:.2f}**"

    def _lateness(self) -> list[str]:
        names = self.contenders("ticks")
        if not names:
            return []
        heads = ["lateness of a token, ms", "p50", "p99", "p50 to raw", "p99 to raw", "came"]
        lines = ["", _line(heads), _line(["---", *("---:" for _ in heads[1:])])]
        for name in names:
            own = [self.slow("ticks", name, figure) for figure in ("p50", "p99")]
            added = [self.added("ticks", name, figure) for figure in ("p50", "p99")]
            came = self.slow("ticks", name, "rate")
            cells = [_ms(seconds) for seconds in own] + [_ms(more, "+") for more in added]
            lines.append(_line([TITLES[name], *cells, f"{came or 0:.0%}"]))
        return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ms(seconds: float | None, sign: str = "-") -> str:
    return "–" if seconds is None else format(seconds * 1e3, f"{sign}.2f")
