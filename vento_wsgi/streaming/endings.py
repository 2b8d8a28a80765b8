"""What a stream sends when it fails, and which exceptions mean that it should stop."""

from __future__ import annotations

import json
from typing import Any

from werkzeug.exceptions import ClientDisconnected

from .. import sse

__all__ = ["FAILED", "FAREWELL", "STOPS", "Interruption", "broken_request"]

FAREWELL = 0.3
"""Seconds between an ``error`` event and the break: a browser that gets both at once drops the
event.
"""

_MESSAGE = "The stream failed."

FAILED = sse.Event(
    json.dumps(
        {
            "type": "error",
            "error": {"type": "server_error", "message": _MESSAGE},
            "errorText": _MESSAGE,
        }
    ),
    event="error",
).encode()
"""Sent when a source fails. The SDKs of OpenAI, Anthropic and the AI SDK look for its fields."""

STOPS = ("GeneratorExit", "GreenletExit", "KeyboardInterrupt", "SystemExit")
"""Exceptions that mean "stop", not "the source failed". By name, since gevent is optional."""


Interruption: Any = type("GeneratorExit", (GeneratorExit, SystemExit), {})
"""What a source is interrupted with: a GeneratorExit to all that it passes through.

It is a SystemExit as well, without a code. That is the one exception that Sentry's middleware
does not report, and such middleware may be around the source.
"""


def broken_request(error: BaseException | None) -> ClientDisconnected | None:
    """The error of an incomplete request body that caused `error`, if there is one."""
    while error is not None and not isinstance(error, ClientDisconnected):
        error = error.__cause__
    return error
