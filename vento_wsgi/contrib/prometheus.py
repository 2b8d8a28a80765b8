"""prometheus: what the streams of an application do, by route. ``pip install vento_wsgi[metrics]``

    from vento_wsgi.contrib.prometheus import StreamMetrics
    metrics = StreamMetrics()
    router.get("/metrics", metrics)             # or app.mount("/metrics", metrics.wsgi_app)

    vento_streams_open{route}                   a gauge
    vento_streams_opened_total{route}
    vento_streams_ended_total{route, reason}    reasons as in ``Ending``
    vento_stream_bytes_total{route}             when a stream has ended, as are all that follow
    vento_stream_pieces_total{route}            in event streams about one an event
    vento_stream_duration_seconds{route}        histograms
    vento_stream_first_chunk_seconds{route}     not of parked subscriptions
    vento_stream_backlog_bytes{route}           made, but not taken by the client

A route is its pattern, ``GET /users/<int:id>``; streams without one, of mounted applications, are
``other``. With several workers each would tell of itself alone: give them a directory that is
empty when gunicorn starts, in ``PROMETHEUS_MULTIPROC_DIR``, and gunicorn this hook, so that the
streams of a worker that died are not counted as open for ever:

    from vento_wsgi.contrib.prometheus import child_exit     # in gunicorn.conf.py

gunicorn's master never imports prometheus_client for it: workers that are forked later would have
its locks as they were before gevent patched the standard library.
"""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..response import Response
from ..streaming.environ import routes
from ..streaming.record import Ending, observers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from prometheus_client import CollectorRegistry

__all__ = ["DIRECTORY", "OTHER", "StreamMetrics", "child_exit"]

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

OTHER = "other"
"""The route of all streams that have none: their paths are the clients' to choose, without end."""

SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
"""A stream may be a short answer, or a browser's tab that stays open all day."""

FIRST = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From what is ready to a language model that thinks."""

BYTES = (0, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024)
"""Up to what a stream may hold; see MAX_BUFFER, MAX_PIECE, and the backlog of subscriptions."""


class StreamMetrics:
    """Counts every stream of the process from now on, and is the handler that tells.

    registry: where the metrics are made, once for each; prometheus_client's own by default.
    Raises ValueError if they are there.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        registry = REGISTRY if registry is None else registry
        self._registry = registry
        by: Any = {"labelnames": ["route"], "registry": registry}
        self._open = Gauge(
            "vento_streams_open", "Streams that are open", multiprocess_mode="livesum", **by
        )
        self._opened = Counter("vento_streams_opened", "Streams that were opened", **by)
        self._ended = Counter(
            "vento_streams_ended",
            "Streams that have ended",
            labelnames=["route", "reason"],
            registry=registry,
        )
        self._bytes = Counter("vento_stream_bytes", "Bytes of streams that have ended", **by)
        self._pieces = Counter("vento_stream_pieces", "Pieces in which these were sent", **by)
        self._duration = Histogram(
            "vento_stream_duration_seconds", "How long streams were open", buckets=SECONDS, **by
        )
        self._first = Histogram(
            "vento_stream_first_chunk_seconds", "Until the first chunk", buckets=FIRST, **by
        )
        self._backlog = Histogram(
            "vento_stream_backlog_bytes", "What was not taken at the end", buckets=BYTES, **by
        )
        observers.append(self)

    def close(self) -> None:
        """Count no more."""
        observers.remove(self)

    # what the engine says

    def opened(self, route: str) -> None:
        label = _label(route)
        self._open.labels(label).inc()
        self._opened.labels(label).inc()

    def ended(self, route: str, ending: Ending) -> None:
        label = _label(route)
        self._open.labels(label).dec()
        self._ended.labels(label, str(ending.reason)).inc()
        self._bytes.labels(label).inc(ending.bytes)
        self._pieces.labels(label).inc(ending.chunks)
        self._duration.labels(label).observe(ending.duration)
        self._backlog.labels(label).observe(ending.backlog)
        if ending.first is not None:
            self._first.labels(label).observe(ending.first)

    # what Prometheus asks

    @property
    def registry(self) -> CollectorRegistry:
        """What is told: this process's metrics, or in multi-process mode those of all."""
        if DIRECTORY not in os.environ:
            return self._registry
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def __call__(self, ctx: Context) -> Response:
        """A handler: all metrics, in the format that the scraper asks for."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(ctx.headers.get("Accept", ""))
        return Response(encode(self.registry), content_type=content_type)

    @property
    def wsgi_app(self) -> WSGIApplication:
        """The same as a WSGI application."""
        from prometheus_client.exposition import make_wsgi_app

        return make_wsgi_app(self.registry)


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """A hook of gunicorn's: what a worker that has exited had open is open no more."""
    if DIRECTORY in os.environ:
        # what mark_process_dead() of prometheus_client does
        path = glob.escape(os.environ[DIRECTORY])
        for file in glob.glob(f"{path}/gauge_live*_{worker.pid}.db"):
            with suppress(FileNotFoundError):
                os.remove(file)


def _label(route: str) -> str:
    return route if route in routes else OTHER
