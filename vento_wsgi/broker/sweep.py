"""Sweep: the slots of a process, asked by its clock whether something is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from ..clock import Clock

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["Sweep"]

STEP = 1000
"""Slots asked in one tick of the clock, at least; beyond four times as many it is a quarter."""


class Sweep:
    """Asks every slot of a clock once a second or so."""

    _sweeps: ClassVar[WeakKeyDictionary[Clock, Sweep]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.slots: set[Slot] = set()
        self._due: list[Slot] = []
        self._step = 1

    @classmethod
    def of(cls, ticker: Clock) -> Sweep:
        sweep = cls._sweeps.get(ticker)
        if sweep is None:
            sweep = cls._sweeps[ticker] = cls()
            ticker.add(sweep)
        return sweep

    def tick(self, now: float) -> None:
        if not self._due:
            self._due = list(self.slots)
            self._step = max(STEP, len(self._due) // 4 + 1)
        due, self._due = self._due[: self._step], self._due[self._step :]
        for slot in due:
            if slot.reason is None:
                slot.tick(now)
