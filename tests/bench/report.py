"""The report: medians, ratios and targets, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from statistics import median
from typing import Any

from .contenders import CONTENDERS
from .figures import P99, Figure, Row, Sample
from .measure import ROWS

__all__ = ["TARGETS", "Results"]

BASE = "raw"
MAX_ADDED_MS = 2.0
"""How much later our tokens may be than raw ones at the 99th percentile."""


@dataclass(frozen=True)
class Target:
    """The main figure of a contender in a row is at most `limit` times that of `other`.

    Without `other` it is at most `limit` in the figure's unit.
    """

    row: str
    contender: str
    other: str
    limit: float


TARGETS = (
    Target("two", "raw-streamworker", "raw", 0.25),
    Target("two", "ours", "raw", 0.40),
    Target("tokens", "ours", "raw", 0.09),
    Target("tokens", "ours", "bun", 1.8),
    Target("hello", "flask-streamworker", "flask", 0.75),
    Target("hello", "django-streamworker", "django", 0.75),
    Target("ticks", "ours", "raw", 0.90),
    Target("live", "ours", "raw", 1.1),
    Target("rows", "ours", "raw", 0.26),
    Target("file", "ours", "raw", 0.79),
    Target("file", "ours", "nginx", 1.1),
    Target("fanout", "ours", "raw", 0.38),
    Target("fanout", "ours", "c", 1.5),
    Target("idle", "ours", "", 0.8),
)
TITLES = {contender.name: contender.title for contender in CONTENDERS}


class Results:
    """Samples by row, contender and round, and the figures that follow from them.

    left_out: the reason why a contender is missing, by its name, or by row and name.
    fast: the contenders that loaded gunicorn's C parser.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        self.left_out: dict[str, str] = {}
        self.fast: set[str] = set()

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
        """The rows that have figures."""
        return [row for row in ROWS if any(name == row.name for name, _ in self._samples)]

    def contenders(self, row: str) -> list[str]:
        """The contenders that have figures in a row, in their order."""
        return [name for name in TITLES if (row, name) in self._samples]

    def main(self, row: Row, contender: str) -> float:
        """The median of the row's main figure."""
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
        """The difference between a figure and that of raw."""
        own, base = (self.figure(row, name, figure) for name in (contender, BASE))
        return None if own is None or base is None else own - base

    def targets(self) -> Iterator[tuple[str, str, float, float]]:
        """Of each target: the row, what is compared, the limit, the measured value."""
        rows = {row.name: row for row in self.rows}
        for row_name, contender, other, limit in map(astuple, TARGETS):
            row, names = rows.get(row_name), self.contenders(row_name)
            if row is None or contender not in names:
                continue
            if not other:
                measured = self.main(row, contender) * row.main.factor
                yield row_name, f"{contender}, {row.main.unit}", limit, measured
            elif (ratio := self.ratio(row, contender, other)) is not None:
                yield row_name, f"{contender} / {other}", limit, ratio
        late = self.more("ticks", "ours", P99)
        if late is not None:
            yield "ticks", "p99 of ours after raw, ms", MAX_ADDED_MS, late * P99.factor

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
        lines = ["CPU time or memory of the server. Bold: the ratio to raw WSGI, gevent.", ""]
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
        """A table of the row's other figures."""
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
