"""Middleware for ``app.use``, a router or a route: each is a function ``(ctx, next)``."""

from .compress import compress
from .cors import cors
from .limit_streams import limit_streams
from .stream_guard import StreamGuard

__all__ = ["StreamGuard", "compress", "cors", "limit_streams"]
