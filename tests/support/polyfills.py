"""What EventSource polyfills send."""

from __future__ import annotations

import pytest

POLYFILLS = {
    "event-source-polyfill 1.0": {"Accept": "text/event-stream"},
    "eventsource-polyfill 0.9": {
        "Accept": "text/event-stream",
        "Cache-Control": "no-cache",
        "X-Requested-With": "XMLHttpRequest",
        "Last-Event-Id": "7",
    },
    "@microsoft/fetch-event-source 2.0": {"accept": "text/event-stream", "last-event-id": "7"},
}
"""The headers that EventSource polyfills set by themselves, from their sources on npm."""

polyfills = pytest.mark.parametrize("headers", POLYFILLS.values(), ids=POLYFILLS.keys())
