"""The report: medians, ratios, what was wanted; as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from .contenders import CONTENDERS
from .figures import P99, Figure, Row, Sample
from .measure import ROWS

__all__ = ["Results"]

BASE = "raw"
MAX_ADDED = 0.002
"""Seconds that our tokens may be later than raw ones at the 99th percentile."""


@dataclass(frozen=True)
class Target:
    """Our main figure of a row is to be at most `limit` times that of another."""

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
    Target("fanout", "raw", 0.3),
    Target("fanout", "node", 1.0),
    Target("fanout", "nchan", 1.0),
    Target("fanout", "c", 1.4),
    Target("idle", "raw", 0.15),
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

    def has(self, contender: str) -> bool:
        """Whether it has a figure."""
        return any(name == contender for _, name in self._samples)

    @property
    def rows(self) -> list[Row]:
        """Those that have figures."""
        return [row for row in ROWS if any(name == row.name for name, _ in self._samples)]

    def contenders(self, row: str) -> list[str]:
        """Those that have figures in a row, in the order in which they are listed."""
        return [name for name in TITLES if (row, name) in self._samples]

    def main(self, row: Row, contender: str) -> float:
        """The median of what is compared in the row."""
        found = self.figure(row.name, contender, row.main)
        assert found is not None
        return found

    def figure(self, row: str, contender: str, figure: Figure) -> float | None:
        """The median."""
        samples = self._samples.get((row, contender), [])
        return median(sample[figure.name] for sample in samples) if samples else None

    def ratio(self, row: Row, contender: str, other: str = BASE) -> float | None:
        """The median of the ratios within the rounds."""
        ours, others = (self._samples.get((row.name, name), []) for name in (contender, other))
        if not ours or not others:
            return None
        name = row.main.name
        return median(one[name] / another[name] for one, another in zip(ours, others))

    def more(self, row: str, contender: str, figure: Figure) -> float | None:
        """By how much a figure is more than that of raw."""
        own, base = (self.figure(row, name, figure) for name in (contender, BASE))
        return None if own is None or base is None else own - base

    def targets(self) -> Iterator[tuple[str, str, float, float]]:
        """Row, what is compared, the limit, what was measured."""
        rows = {row.name: row for row in ROWS}
        for target in TARGETS:
            measured = self.ratio(rows[target.row], "ours", target.other)
            if measured is not None:
                yield target.row, f"ours / {target.other}", target.limit, measured
        late = self.more("ticks", "ours", P99)
        if late is not None:
            yield "ticks", "ms that p99 is later than raw", MAX_ADDED * 1e3, late * 1e3

    def json(self) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for row in self.rows:
            rows[row.name] = {"title": row.title, "contenders": {}}
            for name in self.contenders(row.name):
                figures: dict[str, Any] = {
                    row.main.name: self.main(row, name),
                    "to_raw": self.ratio(row, name),
                }
                for figure in row.more:
                    figures[figure.name] = self.figure(row.name, name, figure)
                    if figure.more:
                        figures[f"{figure.name}_added"] = self.more(row.name, name, figure)
                figures["rounds"] = self._samples[row.name, name]
                rows[row.name]["contenders"][name] = figures
        targets = [
            dict(zip(("row", "what", "limit", "measured"), target)) for target in self.targets()
        ]
        return {"rows": rows, "targets": targets, "left_out": self.left_out}

    def markdown(self) -> str:
        rows = self.rows
        lines = ["CPU time, or memory, of the server; in bold, as a ratio to raw WSGI.", ""]
        heads = ["", *(row.title for row in rows)]
        lines += [_line(heads), _line(["---", *("---:" for _ in rows)])]
        for name, title in TITLES.items():
            if any(name in self.contenders(row.name) for row in rows):
                lines.append(_line([title, *(self._cell(row, name) for row in rows)]))
        for row in rows:
            if row.more:
                lines += self._more(row)
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
        ratio = self.ratio(row, name)
        figure = f"{row.main.show(self.main(row, name))} {row.main.unit}"
        return figure if ratio is None else f"{figure} **{ratio:.2f}**"

    def _more(self, row: Row) -> list[str]:
        """A table of what is shown beside what is compared."""
        compared = [figure for figure in row.more if figure.more] if self._has_base(row) else []
        heads = [row.title, *(_head(figure) for figure in row.more)]
        heads += [f"{figure.title} to raw" for figure in compared]
        lines = ["", _line(heads), _line(["---", *("---:" for _ in heads[1:])])]
        for name in self.contenders(row.name):
            cells = [_show(each, self.figure(row.name, name, each)) for each in row.more]
            cells += [_show(each, self.more(row.name, name, each), "+") for each in compared]
            lines.append(_line([TITLES[name], *cells]))
        return lines

    def _has_base(self, row: Row) -> bool:
        return BASE in self.contenders(row.name)


def _head(figure: Figure) -> str:
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def _show(figure: Figure, value: float | None, sign: str = "-") -> str:
    return "–" if value is None else figure.show(value, sign)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
