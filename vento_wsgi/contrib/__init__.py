"""The streams of vento_wsgi as other frameworks' own responses, and metrics of them."""

from __future__ import annotations

from typing import Any

from ..bodies import sources as bodies
from ..broker import Subscription

__all__ = ["runs"]

_WHOLE = (str, bytes, bytearray, memoryview, list, tuple, Subscription)


def runs(body: Any) -> bool:
    """Whether something of the application's runs when it is iterated. Raises BodyError."""
    bodies.check(body)
    return not (isinstance(body, _WHOLE) or hasattr(body, "read") or hasattr(body, "iter_content"))
