"""Terminal: make text from servers and clients safe to print, and measure it in columns.

A terminal executes control sequences, and some of them make it type input. Bidirectional controls
and right-to-left letters reorder a line, so that one cell looks like a part of another. All of
these, and combining marks, which stack on the letter before, are shown as escapes.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

__all__ = ["cut", "safe", "width", "write"]


def safe(text: str, limit: int = 200) -> str:
    """`text` on one line, with all unsafe characters escaped, of at most `limit` characters."""
    shown = "".join(map(_shown, text[:limit]))
    return shown if max(len(text), len(shown)) <= limit else f"{shown[: limit - 1]}…"


def _shown(character: str) -> str:
    if " " <= character <= "~":
        return character
    plain = (
        character.isprintable()
        and not unicodedata.category(character).startswith("M")
        and unicodedata.bidirectional(character) not in ("R", "AL", "AN")
    )
    return character if plain else character.encode("unicode_escape").decode()


def width(text: str) -> int:
    """Columns of safe text: East Asian wide letters and most emoji take two (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def cut(text: str, columns: int) -> str:
    """The longest beginning of safe text that fits into `columns`."""
    while width(text) > columns:
        text = text[: max(columns // 2, len(text) - (width(text) - columns + 1) // 2)]
    return text


def write(text: str, to: TextIO | None = None) -> None:
    """Write to a terminal or file; characters that its encoding does not have become "?"."""
    to = to or sys.stdout
    encoding = to.encoding or "ascii"
    to.write(text.encode(encoding, "replace").decode(encoding))
    to.flush()
