"""Lumps: whether items come one by one, by when they came and, if they tell, were made.

A clock that runs ahead and the way itself delay all items alike, so the quickest of them is
taken as the measure: what came later than that, after it was made, was held back. Items that do
not tell come in lumps if most of them have company, and a silence before it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from .items import Item

__all__ = ["HELD", "Lumps"]

HELD = 0.25
"""Seconds: less is a busy machine, or a wave in the network."""

TOGETHER = 0.01
"""Seconds within which items are one lump: the kernel may have cut it in two."""

FEW = 3
"""Items that may leave a server together and be no lump."""


class Lumps(NamedTuple):
    """largest: items at once. size: bytes of a lump. held: seconds for which one was kept back.

    sure: whether the items told when they were made.
    """

    largest: int
    size: int
    held: float
    sure: bool

    @classmethod
    def of(cls, items: Sequence[Item], sent: float, head_at: float) -> Lumps | None:
        """None if `items`, which came in answer to a request of the time `sent`, are in none."""
        items = [item for item in items if not item.beat]
        lumps: list[list[Item]] = []
        for item in items:
            if lumps and item.at - lumps[-1][0].at <= TOGETHER:
                lumps[-1].append(item)
            else:
                lumps.append([item])
        if not lumps:
            return None
        largest = max(lumps, key=len)
        size = sum(item.size for item in largest)
        told = [(item.at, item.made) for item in items if item.made is not None]
        if len(told) > len(items) / 2:
            wall = time.time() - time.monotonic()
            quickest = min(at + wall - made for at, made in told)
            # what is older than the request was there before, and could not come sooner
            ages = [
                at + wall - made - quickest for at, made in told if made + quickest - wall > sent
            ]
            held = max(ages, default=0.0)
            # one late item is a hiccup; lumps are a habit
            often = sum(age > HELD / 2 for age in ages) * 4 >= len(ages)
            return cls(len(largest), size, held, True) if held > HELD and often else None
        if len(largest) < FEW:
            return None
        before, together, held = head_at, 0, 0.0
        for lump in lumps:
            if len(lump) >= FEW and lump[0].at - before > HELD:
                together += len(lump)
                held = max(held, lump[0].at - before)
            before = lump[0].at
        return cls(len(largest), size, held, False) if together * 2 > len(items) else None


def gap(items: Sequence[Item]) -> float:
    """Seconds between two arrivals, commonly; 0 if there were not two."""
    times = sorted({item.at for item in items})
    return median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0
