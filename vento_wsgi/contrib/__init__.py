"""Streams of vento_wsgi as responses of Flask and Django, and metrics for Prometheus."""

from __future__ import annotations

from typing import Any

from ..bodies import sources as bodies
from ..broker import Subscription

__all__ = ["runs"]

_WHOLE = (str, bytes, bytearray, memoryview, list, tuple, Subscription)


def runs(body: Any) -> bool:
    """Whether iterating `body` runs code of the application. Raises BodyError if it is no body."""
    bodies.check(body)
    return not (isinstance(body, _WHOLE) or hasattr(body, "read") or hasattr(body, "iter_content"))
