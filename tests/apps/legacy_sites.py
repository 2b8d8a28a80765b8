"""The applications of test_contrib_flask.py, test_contrib_django.py and test_mounting.py.

A Flask and a Django site with streams of ours in their own responses; each has a vento
application below a path of its own, and is itself mounted in one.
"""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import flask
from asgiref.local import Local
from django.conf import settings  # type: ignore[import-untyped]
from django.core.signals import request_finished  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.db import connection  # type: ignore[import-untyped]
from django.http import (  # type: ignore[import-untyped]
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.urls import (  # type: ignore[import-untyped]
    get_urlconf,
    path,
    reverse,
    set_urlconf,
)
from django.utils import timezone, translation  # type: ignore[import-untyped]
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from vento_wsgi import Broker, create_app, create_router
from vento_wsgi.contrib import django as in_django
from vento_wsgi.contrib import flask as in_flask
from vento_wsgi.middleware import StreamGuard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from vento_wsgi import Context, Response

PATIENCE = 20.0  # seconds; longer than a test waits
FOLDER = tempfile.mkdtemp()
DATABASE = os.path.join(FOLDER, "database")
DATA = os.path.join(FOLDER, "data.bin")
with open(DATA, "wb") as file:
    file.write(os.urandom(300_000))

notes: list[str] = []
broker = Broker("memory://")


def waits(name: str) -> Iterator[str]:
    try:
        yield f"{name} first\n"
        threading.Event().wait(PATIENCE)
    except BaseException as error:
        notes.append(f"{name}: {type(error).__name__}")
        raise


# Flask.


class OwnResponse(flask.Response):
    """What an extension may have made of it."""

    own = True


flask_app = flask.Flask(__name__)
flask_app.response_class = OwnResponse
blueprint = flask.Blueprint("live", __name__)


@flask_app.after_request
def after(response: flask.Response) -> flask.Response:
    response.headers["X-After"] = f"{isinstance(response, OwnResponse)}"
    return response


@flask_app.teardown_request
def teardown(_error: BaseException | None) -> None:
    notes.append(f"teardown {flask.request.path}")


@flask_app.get("/")
def flask_index() -> str:
    return flask.url_for("live.events", _external=True)


@flask_app.get("/redirect")
def flask_redirect() -> Any:
    return flask.redirect(flask.url_for("flask_index"))


@flask_app.get("/context")
def flask_context() -> Any:
    flask.g.said = flask.request.args["say"]

    def lines() -> Iterator[str]:
        for _ in range(2):
            yield f"{flask.g.said} {flask.request.path} {flask.url_for('flask_index')}\n"
            threading.Event().wait(0.001)

    return in_flask.stream(lines(), "text/plain", headers={"X-Own": "yes"})


@flask_app.get("/waits")
def flask_waits() -> Any:
    def lines() -> Iterator[str]:
        try:
            yield from waits("flask")
        finally:
            notes.append(f"finally {flask.request.path}")

    return in_flask.stream(lines(), "text/plain")


@flask_app.get("/data")
def flask_data() -> Any:
    return in_flask.file(DATA, download="data é.bin")


@flask_app.get("/files/<path:name>")
def flask_files(name: str) -> Any:
    return in_flask.file(name, root=FOLDER)


@blueprint.get("/events")
def events() -> Any:
    return in_flask.sse(iter([{"last": in_flask.last_event_id()}]))


@blueprint.get("/waiting-events")
def waiting_events() -> Any:
    return in_flask.sse(waits("flask events"), heartbeat=0)


@blueprint.get("/news")
def news() -> Any:
    news = in_flask.sse(broker.subscribe("news", after=in_flask.last_event_id()))
    news.call_on_close(lambda: notes.append("flask news closed"))
    return news


flask_app.register_blueprint(blueprint, url_prefix="/live")

# Django.


class Compress:
    """Stands in for middleware that replaces a body."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.get_response(request)
        if request.GET.get("replace"):
            body = response.streaming_content
            response.streaming_content = (part.upper() for part in body)
        if request.GET.get("drop"):
            return HttpResponse("dropped")
        response["X-Seen"] = type(response).__mro__[1].__name__
        return response


current = Local()
"""State of a request as packages keep it, such as the current user or tenant."""

request_id: ContextVar[str] = ContextVar("request_id", default="none")


class Remember:
    """Stands in for middleware that keeps something while the view runs: ?as=USER."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        user = request.GET.get("as")
        if user is None:
            return self.get_response(request)
        current.user = user
        token = request_id.set(f"id of {user}")
        with translation.override("de"), timezone.override("Asia/Tokyo"):
            try:
                return self.get_response(request)
            finally:
                del current.user
                request_id.reset(token)


def remembered() -> str:
    """What the code that runs can see of its request."""
    return " ".join(
        (
            getattr(current, "user", "nobody"),
            request_id.get(),
            str(translation.get_language()),
            translation.gettext("January"),
            timezone.get_current_timezone_name(),
            reverse("index"),
            str(get_urlconf()),
        )
    )


settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_I18N=True,
    SECRET_KEY="of the tests",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATABASE,
            "CONN_MAX_AGE": None,
        }
    },
    MIDDLEWARE=[
        f"{__name__}.Remember",
        f"{__name__}.Compress",
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
)


def finished(**_options: Any) -> None:
    select()  # may wait, as a signal's receivers may
    connection.close()
    notes.append("django finished")


request_finished.connect(finished)


def select() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM numbers")
        return cursor.fetchone()[0]  # type: ignore[no-any-return]


with sqlite3.connect(DATABASE) as made:
    made.execute("CREATE TABLE numbers (number INTEGER)")
    made.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(100)])
made.close()


def django_index(request: Any) -> Any:
    return HttpResponse(request.build_absolute_uri(reverse("events")))


def django_redirect(_request: Any) -> Any:
    return HttpResponseRedirect(reverse("index"))


def rows() -> Iterator[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT number FROM numbers")
        for (number,) in cursor:
            yield f"row {number}\n"


def django_rows(request: Any) -> Any:
    select()
    headers = [("X-Own", "yes"), ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2")]
    return in_django.stream(request, rows(), "text/csv", headers=headers)


def django_waits(request: Any) -> Any:
    select()  # and its connection would be kept

    def lines() -> Iterator[str]:
        yield from waits("django")

    return in_django.stream(request, lines(), "text/plain")


def django_asks(request: Any) -> Any:
    def lines() -> Iterator[str]:
        yield f"{select()}\n"
        yield from waits("django")

    return in_django.stream(request, lines(), "text/plain")


def django_data(request: Any) -> Any:
    return in_django.file(request, DATA)


def django_files(request: Any, name: str) -> Any:
    return in_django.file(request, name, root=FOLDER)


def django_events(request: Any) -> Any:
    return in_django.sse(request, iter([{"last": in_django.last_event_id(request)}]))


def django_waiting_events(request: Any) -> Any:
    return in_django.sse(request, waits("django events"), heartbeat=0)


def django_news(request: Any) -> Any:
    select()
    return in_django.sse(request, broker.subscribe("news", after=in_django.last_event_id(request)))


def forget() -> None:
    """Change all that `remembered` tells, for the rest of the stream."""
    current.user = "another"
    request_id.set("another")
    translation.activate("fr")
    timezone.activate("Europe/Paris")
    set_urlconf(None)


def remembering() -> Iterator[str]:
    try:
        for _ in range(2):
            yield f"{remembered()}\n"
            threading.Event().wait(0.001)
        forget()
        yield f"{remembered()}\n"
    finally:
        notes.append(f"django finally: {remembered()}")


class Remembering:
    """An iterable that is closed, as generators are, but whose code all runs by its methods."""

    def __iter__(self) -> Iterator[str]:
        return map(self.line, range(2))

    def line(self, _: int) -> str:
        return f"{remembered()}\n"

    def close(self) -> None:
        notes.append(f"django closed: {remembered()}")


def django_remembers(request: Any, kind: str) -> Any:
    notes.append(f"django view: {remembered()}")
    if kind == "sse":
        return in_django.sse(request, remembering())
    if kind == "waits":

        def lines() -> Iterator[str]:
            try:
                yield from waits("django remembers")
            finally:
                notes.append(f"django left: {remembered()}")

        return in_django.stream(request, lines(), "text/plain")
    body = Remembering() if kind == "iterable" else remembering()
    return in_django.stream(request, body, "text/plain")


def django_tenant(request: Any) -> Any:
    def lines() -> Iterator[str]:
        yield f"tenant {getattr(connection, 'tenant', None)}\n"
        for tenant in (1, 2):
            connection.tenant = tenant
            select()
            yield f"{connection.tenant}\n"

    return in_django.stream(request, lines(), "text/plain")


COOKIES = (
    "first=1; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
    'json={"a":1,"b":[2,3]}; Path=/',
    "second=2; Path=/; Priority=High",
    "second=3; Path=/other",
    "third=a b,c; Max-Age=60; Expires=Wed, 09 Jun 2100 10:18:14 GMT",
    "odd[name]=4",
    'quoted="a b"; Domain=example.org',
)


def django_cookies(request: Any) -> Any:
    headers = [("Set-Cookie", cookie) for cookie in COOKIES]
    return in_django.stream(request, iter(["a"]), "text/plain", headers=headers)


def django_own(_request: Any) -> Any:
    return StreamingHttpResponse(iter([b"own"]), content_type="text/plain")


urlpatterns = [
    path("", django_index, name="index"),
    path("redirect", django_redirect),
    path("rows", django_rows),
    path("waits", django_waits),
    path("asks", django_asks),
    path("data", django_data),
    path("own", django_own),
    path("cookies", django_cookies),
    path("remembers/<kind>", django_remembers),
    path("tenant", django_tenant),
    path("files/<path:name>", django_files),
    path("live/events", django_events, name="events"),
    path("live/waiting-events", django_waiting_events),
    path("live/news", django_news),
]

django_app = get_wsgi_application()

# vento_wsgi.

router = create_router()


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.text(ctx.url)


@router.get("/paths")
def paths(ctx: Context) -> Response:
    return ctx.json([ctx.environ["SCRIPT_NAME"], ctx.environ["PATH_INFO"], ctx.path, ctx.url])


@router.get("/redirect")
def redirect(ctx: Context) -> Response:
    return ctx.redirect(ctx.request.root_path + "/")


@router.get("/live/events")
def vento_events(ctx: Context) -> Response:
    return ctx.sse([{"last": ctx.last_event_id}])


@router.get("/live/waiting-events")
def vento_waiting_events(ctx: Context) -> Response:
    return ctx.sse(waits("vento events"), heartbeat=0)


@router.get("/waits")
def vento_waits(ctx: Context) -> Response:
    return ctx.stream(waits("vento"), "text/plain")


@router.get("/fails")
def vento_fails(ctx: Context) -> Response:
    def lines() -> Iterator[str]:
        yield "first\n"
        raise RuntimeError("broken")

    return ctx.stream(lines(), "text/plain")


@router.get("/live/news")
def vento_news(ctx: Context) -> Response:
    return ctx.sse(broker.subscribe("news", after=ctx.last_event_id))


vento_app = create_app()
vento_app.use(router)

mounting = create_app()
mounting.mount("/flask", StreamGuard(flask_app))
mounting.mount("/django", StreamGuard(django_app))


# The records.


def tell(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Notes, open connections to the database, and greenlets that are not at their end."""
    if environ["QUERY_STRING"].startswith("publish="):
        broker.publish("news", environ["QUERY_STRING"].partition("=")[2])
    names = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    greenlets = 0
    if environ["QUERY_STRING"] == "greenlets":
        from gevent import Greenlet

        gc.collect()
        greenlets = sum(
            isinstance(thing, Greenlet) and not thing.dead for thing in gc.get_objects()
        )
    told = {"notes": notes, "connections": names.count(DATABASE), "greenlets": greenlets}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


def below(site: Any) -> WSGIApplication:
    return DispatcherMiddleware(site, {"/vento": vento_app})


app = DispatcherMiddleware(
    tell,
    {
        "/tell": tell,
        "/flask": below(flask_app),
        "/django": below(django_app),
        "/mounting": mounting,
    },
)
