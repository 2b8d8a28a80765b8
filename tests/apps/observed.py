"""The applications of test_observed.py: streams below the middleware of observers.

The SDKs are Sentry's and OpenTelemetry's own. What they would send is kept; /tell returns it.
/ORDER/APP/NAME: which middleware is around which, around which application, and what it does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import flask
import sentry_sdk
from django.conf import settings  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import StreamingHttpResponse  # type: ignore[import-untyped]
from django.urls import re_path  # type: ignore[import-untyped]
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from vento_wsgi import create_app, create_router
from vento_wsgi.contrib import django as in_django
from vento_wsgi.contrib import flask as in_flask
from vento_wsgi.middleware import StreamGuard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from vento_wsgi import Context, Response

notes: list[str] = []
events: list[str] = []


class Kept(Transport):
    """Keeps what would be sent to Sentry."""

    def capture_envelope(self, envelope: Any) -> None:
        if (event := envelope.get_event()) is not None:
            kinds = [each["type"] for each in event.get("exception", {}).get("values", [])]
            events.append(" ".join(kinds) or str(event.get("logentry")))


sentry_sdk.init("http://key@127.0.0.1:9/1", transport=Kept, traces_sample_rate=1.0)

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))


# What the paths send.


def noting(items: Callable[[], Iterator[str]]) -> Iterator[str]:
    try:
        yield from items()
    except BaseException as error:
        notes.append(type(error).__name__)
        raise


def waits() -> Iterator[str]:
    yield "data: first\n\n"
    threading.Event().wait()


def fails() -> Iterator[str]:
    yield "data: first\n\n"
    threading.Event().wait(0.05)  # and it is sent
    raise RuntimeError("broken")


def fails_at_close() -> Iterator[str]:
    try:
        yield "data: first\n\n"
        threading.Event().wait()
    finally:
        raise RuntimeError("broken")


TEXT, EVENTS = "text/plain", "text/event-stream"
STREAMS = {
    "waits": (waits, TEXT),
    "events": (waits, EVENTS),
    "fails": (fails, TEXT),
    "failing-events": (fails, EVENTS),
    "failing-at-close": (fails_at_close, TEXT),
    "sized": (fails, TEXT),
}


def headers(name: str, kind: str) -> list[tuple[str, str]]:
    """The headers of a response. With a Content-Length StreamGuard makes no Stream of it."""
    return [("Content-Type", kind), *([("Content-Length", "100")] if name == "sized" else [])]


def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/")
    if name == "raises":
        raise RuntimeError("broken")
    source, kind = STREAMS[name]
    start_response("200 OK", headers(name, kind))
    return map(str.encode, noting(source))


router = create_router()


gone = threading.Event()


@router.get("/late")
def late(ctx: Context) -> Response:
    """Streams to a client that has left in the meantime."""
    gone.clear()
    notes.append("called")
    gone.wait()
    return ctx.stream(waits(), on_end=lambda ending: notes.append(ending.reason))


@router.get("/left")
def left(ctx: Context) -> Response:
    gone.set()
    return ctx.text("")


@router.get("/<name>")
def view(ctx: Context) -> Response:
    if ctx.params["name"] == "raises":
        raise RuntimeError("broken")
    source, kind = STREAMS[ctx.params["name"]]
    return ctx.stream(noting(source), kind)


ours = create_app()
ours.use(router)

with_flask = flask.Flask(__name__)


@with_flask.get("/<name>")
def flask_view(name: str) -> Any:
    if name == "raises":
        raise RuntimeError("broken")
    source, kind = STREAMS[name]
    if "ours" in flask.request.args:
        return in_flask.stream(noting(source), kind)
    return flask.Response(noting(source), headers=headers(name, kind))


settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of the tests")


def django_view(request: Any, name: str) -> Any:
    if name == "raises":
        raise RuntimeError("broken")
    source, kind = STREAMS[name]
    if "ours" in request.GET:
        return in_django.stream(request, noting(source), kind)
    return StreamingHttpResponse(noting(source), headers=dict(headers(name, kind)))


urlpatterns = [re_path("^(?P<name>[a-z-]+)$", django_view)]
with_django = get_wsgi_application()  # which Sentry has wrapped


def traced(app: WSGIApplication) -> WSGIApplication:
    return OpenTelemetryMiddleware(app, tracer_provider=provider)


ORDERS: dict[str, Callable[[Any], Any]] = {
    "sentry": SentryWsgiMiddleware,
    "traced": traced,
    "sentry-guard": lambda app: SentryWsgiMiddleware(StreamGuard(app)),
    "guard-sentry": lambda app: StreamGuard(SentryWsgiMiddleware(app)),
    "traced-guard": lambda app: traced(StreamGuard(app)),
    "guard-traced": lambda app: StreamGuard(traced(app)),
}


def tell(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    ended = [span.status.status_code.name for span in spans.get_finished_spans()]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"notes": notes, "events": events, "spans": ended}).encode()]


apps = {"plain": plain, "ours": ours, "flask": with_flask, "django": with_django}
app = DispatcherMiddleware(
    tell,
    {f"/{order}/{name}": wrap(app) for order, wrap in ORDERS.items() for name, app in apps.items()},
)
