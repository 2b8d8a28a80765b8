"""Epoch: a random name of a log, which its ids contain."""

from __future__ import annotations

import os
import re

__all__ = ["Epoch"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}")  # at most 18 digits: a 64-bit integer of a database


class Epoch(str):
    """Drawn when a log is made, and part of its ids, so that ids of other logs are recognised.

    It starts with a letter, unlike the ids of Redis.
    """

    __slots__ = ()

    @classmethod
    def draw(cls) -> Epoch:
        number = int.from_bytes(os.urandom(5), "big")
        return cls("v" + "".join(_LETTERS[number >> shift & 31] for shift in range(0, 40, 5)))

    def id(self, position: int) -> str:
        return f"{self}-{position}"

    def position(self, id: str) -> int | None:
        epoch, _, number = id.partition("-")
        return int(number) if epoch == self and _POSITION.fullmatch(number) else None
