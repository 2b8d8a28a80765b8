"""Bursts: whether the items of a stream arrive one by one, or several at once.

If items say when they were made, the delay of each is known except for a constant: the clocks
may differ, and the network takes time. That constant is the same for all items, so the fastest
item is the reference, and any item with a longer delay was held back on the way.

If items do not say it, they come in bursts if most of them arrive together with others, after a
silence.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from .items import Item

__all__ = ["HELD", "Bursts"]

HELD = 0.25
"""Seconds of delay that count as held back; less can be a busy machine or network jitter."""

TOGETHER = 0.01
"""Seconds within which items belong to one burst; recv() may return one burst in two parts."""

FEW = 3
"""Items in a burst, at least. Fewer may have been sent together by the server."""


class Bursts(NamedTuple):
    """largest: items in the largest burst. size: its bytes. held: the longest delay, in seconds.

    sure: whether the items said when they were made. If not, `held` is the longest silence before
    a burst, and the application itself may have made the burst.
    """

    largest: int
    size: int
    held: float
    sure: bool

    @classmethod
    def of(cls, items: Sequence[Item], sent: float, head_at: float) -> Bursts | None:
        """The bursts of `items`; None if there are none. sent: when the request was sent."""
        items = [item for item in items if not item.beat]
        bursts: list[list[Item]] = []
        for item in items:
            if bursts and item.at - bursts[-1][0].at <= TOGETHER:
                bursts[-1].append(item)
            else:
                bursts.append([item])
        if not bursts:
            return None
        largest = max(bursts, key=len)
        size = sum(item.size for item in largest)
        told = [(item.at, item.made) for item in items if item.made is not None]
        if len(told) > len(items) / 2:
            wall = time.time() - time.monotonic()
            quickest = min(at + wall - made for at, made in told)
            # an item that was made before the request could not arrive sooner
            ages = [
                at + wall - made - quickest for at, made in told if made + quickest - wall > sent
            ]
            held = max(ages, default=0.0)
            # a single late item is no burst: a quarter of all items must be late
            often = sum(age > HELD / 2 for age in ages) * 4 >= len(ages)
            return cls(len(largest), size, held, True) if held > HELD and often else None
        if len(largest) < FEW:
            return None
        before, together, held = head_at, 0, 0.0
        for burst in bursts:
            if len(burst) >= FEW and burst[0].at - before > HELD:
                together += len(burst)
                held = max(held, burst[0].at - before)
            before = burst[0].at
        return cls(len(largest), size, held, False) if together * 2 > len(items) else None


def gap(items: Sequence[Item]) -> float:
    """The median time between two arrivals, in seconds; 0 if there were fewer than two."""
    times = sorted({item.at for item in items})
    return median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0
