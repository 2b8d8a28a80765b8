"""prometheus: metrics of an application's streams, by route. ``pip install vento_wsgi[metrics]``

    from vento_wsgi.contrib.prometheus import StreamMetrics
    metrics = StreamMetrics()
    router.get("/metrics", metrics)             # or app.mount("/metrics", metrics.wsgi_app)

    vento_streams_open{route}                   a gauge
    vento_streams_opened_total{route}
    vento_streams_ended_total{route, reason}    reasons as in ``Ending``
    vento_stream_bytes_total{route}             this and all below: counted when a stream ends
    vento_stream_pieces_total{route}            writes; in event streams about one an event
    vento_stream_duration_seconds{route}        a histogram
    vento_stream_first_chunk_seconds{route}     a histogram, without parked subscriptions
    vento_stream_backlog_bytes{route}           a histogram of bytes that the client did not take

The label `route` is the pattern, ``GET /users/<int:id>``; streams without a route, such as those of
mounted applications, have ``other``.

With several workers, a scrape would see the metrics of one worker only. To combine them, set
``PROMETHEUS_MULTIPROC_DIR`` to a directory that is empty when gunicorn starts, and give gunicorn
this hook, so that the streams of a worker that died do not count as open for ever:

    from vento_wsgi.contrib.prometheus import child_exit     # in gunicorn.conf.py

The hook does not import prometheus_client in gunicorn's master: workers forked later would inherit
locks that were made before gevent patched the standard library.
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
"""The label of streams without a route. Paths are no label: clients could make any number."""

SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
"""Buckets of durations: from a short response to a browser tab that is open all day."""

FIRST = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Buckets of seconds to the first chunk: up to a language model that thinks."""

BYTES = (0, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024)
"""Buckets of backlogs: up to what a stream or subscription can hold."""


class StreamMetrics:
    """Counts every stream of the process, from now on; itself the handler of the scrape.

    registry: where the metrics are registered; by default the registry of prometheus_client.
    Raises ValueError if the registry already has them.
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
        """Stop counting."""
        observers.remove(self)

    # the observer, which the engine calls

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

    # the scrape

    @property
    def registry(self) -> CollectorRegistry:
        """The registry to expose: of this process, or of all workers in multi-process mode."""
        if DIRECTORY not in os.environ:
            return self._registry
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def __call__(self, ctx: Context) -> Response:
        """A handler that returns all metrics, in the format that Accept asks for."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(ctx.headers.get("Accept", ""))
        return Response(encode(self.registry), content_type=content_type)

    @property
    def wsgi_app(self) -> WSGIApplication:
        """The same handler as a WSGI application."""
        from prometheus_client.exposition import make_wsgi_app

        return make_wsgi_app(self.registry)


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """A hook of gunicorn: remove the gauges of a worker that has exited."""
    if DIRECTORY in os.environ:
        # as mark_process_dead() of prometheus_client does
        path = glob.escape(os.environ[DIRECTORY])
        for file in glob.glob(f"{path}/gauge_live*_{worker.pid}.db"):
            with suppress(FileNotFoundError):
                os.remove(file)


def _label(route: str) -> str:
    return route if route in routes else OTHER
