"""Streams over WSGI: a handler returns a generator, the client gets it as it comes."""

from .app import App, create_app
from .broker import Broker, Lagged, Subscription
from .context import Context
from .exceptions import (
    AppNotFound,
    BodyError,
    BrokerError,
    EventError,
    RouteError,
    StreamAborted,
    VentoError,
)
from .request import Request
from .response import Response
from .routing import Router, create_router
from .sse import Event, decode, sse
from .streaming.record import CloseReason, Ending

__version__ = "0.1.0"

__all__ = [
    "App",
    "AppNotFound",
    "BodyError",
    "Broker",
    "BrokerError",
    "CloseReason",
    "Context",
    "Ending",
    "Event",
    "EventError",
    "Lagged",
    "Request",
    "Response",
    "RouteError",
    "Router",
    "StreamAborted",
    "Subscription",
    "VentoError",
    "create_app",
    "create_router",
    "decode",
    "sse",
]
