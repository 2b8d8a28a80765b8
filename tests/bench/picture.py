"""The picture: one panel for each row, with a bar for each contender's ratio to raw."""

from __future__ import annotations

from html import escape
from textwrap import wrap

from .figures import P99, Row
from .report import TITLES, Results

__all__ = ["picture"]

TITLE = "CPU time, or memory, of the server, as a ratio to raw WSGI; less is better"
WIDTH, MARGIN = 860, 28
HEAD, LINE, PANEL, FOOT, NOTE = 76, 24, 62, 24, 16
BARS, RATIOS, FIGURES, LATE = 262, 620, 714, 832
"""Where the bars begin, and where the columns of figures to their right end."""
LONGEST = 302
NOTE_CHARACTERS = 120

STYLE = """
svg { --paper: #ffffff; --edge: #d9dee5; --ink: #1d2530; --soft: #66707d; --bar: #b7c1ce;
      --ours: #0f7b6c; --mark: #7d8896 }
@media (prefers-color-scheme: dark) {
svg { --paper: #12161c; --edge: #2b323c; --ink: #e8ecf1; --soft: #98a3b0; --bar: #465261;
      --ours: #3ecfb6; --mark: #8b97a6 } }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink);
       font-variant-numeric: tabular-nums }
.paper { fill: var(--paper); stroke: var(--edge) }
.title { font-size: 17px; font-weight: 600 }
.row { font-size: 14px; font-weight: 600 }
.right { text-anchor: end }
.soft { fill: var(--soft); font-size: 12px }
text.ours { font-weight: 600 }
rect.bar { fill: var(--bar) }
rect.ours { fill: var(--ours) }
.raw { stroke: var(--mark); stroke-dasharray: 3 3 }
"""


def picture(results: Results, footnote: str) -> str:
    """An SVG for light and dark pages."""
    panels, top = [], float(HEAD)
    for row in results.rows:
        if results.ratio(row, "raw") is not None:
            panels += _panel(results, row, top)
            top += PANEL + LINE * len(results.contenders(row.name))
    notes = wrap(footnote, NOTE_CHARACTERS)
    height = round(top + FOOT + NOTE * len(notes))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{TITLE}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="10"/>',
            _text("title", MARGIN, 44, TITLE),
            *panels,
            *(_text("soft", MARGIN, top + NOTE * (at + 1), note) for at, note in enumerate(notes)),
            "</svg>",
            "",
        ]
    )


def _panel(results: Results, row: Row, y: float) -> list[str]:
    ratios = {name: results.ratio(row, name) or 0.0 for name in results.contenders(row.name)}
    longest = max(ratios.values())
    line = BARS + LONGEST / longest
    top, bottom = y + 30, y + 30 + LINE * len(ratios)
    late = P99 in row.more
    parts = [_text("row", MARGIN, y + 16, row.title)]
    if late:
        parts.append(_text("soft right", LATE, y + 16, "p99 to raw"))
    for at, (name, ratio) in enumerate(sorted(ratios.items(), key=lambda pair: pair[1])):
        middle = top + LINE * (at + 0.5)
        ours = " ours" if name.startswith("ours") or name.endswith("-streamworker") else ""
        shape = f'width="{max(2.0, LONGEST * ratio / longest):.1f}" height="15" rx="3"'
        figure = f"{row.main.show(results.main(row, name))} {row.main.unit}"
        parts += [
            _text(f"right{ours}", BARS - 12, middle + 4.5, TITLES[name]),
            f'<rect class="bar{ours}" x="{BARS}" y="{middle - 7.5:.1f}" {shape}/>',
            _text(f"right{ours}", RATIOS, middle + 4.5, f"{ratio:.2f}"),
            _text("right soft", FIGURES, middle + 4.5, figure),
        ]
        if late:
            added = (results.more(row.name, name, P99) or 0.0) * P99.factor
            parts.append(_text("right soft", LATE, middle + 4.5, f"{added:+.1f} ms"))
    place = f'x1="{line:.1f}" x2="{line:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"'
    return [*parts, f'<line class="raw" {place}/>']


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
