"""Middleware for ``app.use``, a router or a route: each is a function ``(ctx, next)``."""

from .cors import cors
from .limit_streams import limit_streams

__all__ = ["cors", "limit_streams"]
