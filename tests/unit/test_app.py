"""The application as a WSGI callable: its own answers, and what happens to errors."""

import builtins
import io
import json
import logging
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
import werkzeug.exceptions
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, abort
from werkzeug.test import Client, TestResponse, create_environ, run_wsgi_app
from werkzeug.wrappers import Response as WerkzeugResponse

from vento_wsgi import (
    App,
    Context,
    Event,
    Response,
    RouteError,
    Router,
    create_app,
    create_router,
    decode,
)
from vento_wsgi.routing import Next

SECRET = "the password is hunter2"
EPOCH = "Thu, 01 Jan 1970 00:00:00 GMT"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


PATHS = (
    *("/text", "/empty", "/folder", "/stream", "/sse", "/bytes", "/file", "/redirect", "/werkzeug"),
    *("/hop", "/echo", "/fails", "/forbidden", "/nowhere", "/old/x"),
)


def application(**options: Any) -> App:
    """An application with a route for each kind of answer."""
    app, router = create_app(**options), create_router()
    app.use(router)
    router.get("/text", lambda ctx: ctx.text("hello"))
    router.get("/empty", lambda _: Response(status=204))
    router.get("/folder/", lambda ctx: ctx.text("folder"))
    router.get("/stream", lambda ctx: ctx.stream(iter(["a", b"b", "", memoryview(b"c")])))
    router.get("/sse", lambda ctx: ctx.sse([1, Event("two", id="2")]))
    router.get("/bytes", lambda ctx: ctx.stream(io.BytesIO(b"0123456789"), "text/plain"))
    router.get("/file", lambda ctx: ctx.file(__file__))
    router.get("/redirect", lambda ctx: ctx.redirect("/text"))
    router.get("/werkzeug", lambda _: WerkzeugResponse("plain"))
    router.get("/hop", lambda ctx: ctx.text("x", headers={"Connection": "keep-alive"}))
    router.post("/echo", lambda ctx: ctx.json(ctx.request.json()))
    router.get("/fails", fails)
    router.get("/forbidden", lambda _: abort(403, "not for you"))
    return app


def fails(_: Context) -> Response:
    raise RuntimeError(SECRET)


def passing(_: Context, next: Next) -> WerkzeugResponse:
    return next()


def raising(error: Callable[[], BaseException], **options: Any) -> Client:
    """A client of an application whose "/" raises `error()`."""
    app, router = create_app(**options), create_router()
    app.use(router)

    def handler(_: Context) -> Response:
        raise error()

    router.route("/", handler, methods=["GET", "POST"])
    return Client(app)


def get(client: Client, path: str = "/", method: str = "GET", **options: Any) -> TestResponse:
    return client.open(path, method=method, buffered=True, **options)


# Answers that nobody wrote.


def test_a_path_without_a_route_is_404() -> None:
    response = get(Client(application()), "/nowhere")
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"
    problem = response.json
    assert problem is not None
    assert (problem["title"], problem["status"]) == ("Not Found", 404)


def test_an_application_without_routes_is_404() -> None:
    assert get(Client(create_app()), "/").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "BREW"])
def test_a_method_without_a_route_is_405_with_those_that_have_one(method: str) -> None:
    response = get(Client(application()), "/text", method)
    assert response.status_code == 405
    assert response.headers.getlist("Allow") == ["GET, HEAD, OPTIONS"]
    assert response.content_type == "application/problem+json"
    assert response.json is not None
    assert response.json["status"] == 405


def test_options_lists_the_methods_of_a_path() -> None:
    app, router = create_app(), create_router()
    app.use(router)
    router.route("/x", fails, methods=["PUT", "GET"])
    router.delete("/x", fails)
    response = get(Client(app), "/x", "OPTIONS")
    assert response.status_code == 204
    assert response.headers.getlist("Allow") == ["DELETE, GET, HEAD, OPTIONS, PUT"]
    assert response.data == b""


def test_options_of_a_path_without_routes_is_404() -> None:
    assert get(Client(application()), "/nowhere", "OPTIONS").status_code == 404


@pytest.mark.parametrize("path", ["/text", "/bytes", "/file", "/stream", "/sse", "/redirect"])
def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    client = Client(application())
    head, whole = get(client, path, "HEAD"), get(client, path)
    assert head.status_code == whole.status_code
    assert list(head.headers) == list(whole.headers)
    assert head.data == b""


@pytest.mark.parametrize("path", ["/nowhere", "/fails", "/forbidden"])
def test_head_of_an_error_has_no_body_either(path: str) -> None:
    client = Client(application())
    head, whole = get(client, path, "HEAD"), get(client, path)
    assert head.status_code == whole.status_code
    assert head.headers["Content-Length"] == str(len(whole.data))
    assert head.data == b""


def test_head_closes_a_stream_without_having_started_it() -> None:
    seen: list[str] = []

    class Source:
        def __iter__(self) -> Iterator[str]:
            seen.append("started")
            return iter("x")

        def close(self) -> None:
            seen.append("closed")

    app, router = create_app(), create_router()
    app.use(router)
    router.get("/", lambda ctx: ctx.stream(Source()))
    assert get(Client(app), "/", "HEAD").status_code == 200
    assert seen == ["closed"]


def test_a_missing_trailing_slash_is_a_redirect_that_keeps_method_and_query() -> None:
    response = get(Client(application()), "/folder?a=1&b=%C3%BC")
    assert response.status_code == 308
    assert response.headers["Location"] == "http://localhost/folder/?a=1&b=%C3%BC"
    assert get(Client(application()), "/folder", follow_redirects=True).text == "folder"


@pytest.mark.parametrize("path", ["/folders/7", "/folders/7/"])
def test_the_slash_of_a_path_with_parameters_is_redirected_to_on_the_host_of_the_request(
    path: str,
) -> None:
    app, router = create_app(), create_router()
    router.get("/folders/<int:id>/", lambda ctx: ctx.text(f"folder {ctx.params['id']}"))
    app.use(router)
    response = get(
        Client(app), path, base_url="https://example.org:8443/root", follow_redirects=True
    )
    assert response.text == "folder 7"
    assert response.request.url == "https://example.org:8443/root/folders/7/"


@pytest.mark.parametrize("path", ["/fixed", "/users/7"])
def test_a_route_is_found_whatever_the_host_is_called(path: str) -> None:
    app, router = create_app(), create_router()
    router.get("/fixed", lambda ctx: ctx.text("found"))
    router.get("/users/<int:id>", lambda ctx: ctx.text("found"))
    app.use(router)
    for host in ("example.org", "a..b", "x" * 300, "[::1", ""):
        assert get(Client(app), path, headers={"Host": host}).text == "found"


def test_a_redirect_to_the_slash_stays_below_the_mount() -> None:
    app = create_app()
    app.mount("/app", application())
    response = get(Client(app), "/app/folder")
    assert response.headers["Location"] == "http://localhost/app/folder/"


# Errors.


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 413, 415, 418, 422, 451, 500, 503])
def test_an_http_exception_becomes_a_problem(code: int, caplog: pytest.LogCaptureFixture) -> None:
    response = get(raising(lambda: werkzeug.exceptions.default_exceptions[code]("because")))
    assert response.status_code == code
    assert response.headers.getlist("Content-Type") == ["application/problem+json"]
    assert response.json == {
        "type": "about:blank",
        "title": werkzeug.exceptions.default_exceptions[code]().name,
        "status": code,
        "detail": "because",
    }
    assert caplog.records == []


def test_a_problem_without_a_description_has_no_detail() -> None:
    class Nameless(HTTPException):
        code = 409

    assert get(raising(Nameless)).json == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
    }


def test_a_problem_may_speak_any_language() -> None:
    response = get(raising(lambda: werkzeug.exceptions.Conflict("schon «belegt» €")))
    assert response.json is not None
    assert response.json["detail"] == "schon «belegt» €"


KEPT: list[tuple[HTTPException, str, str]] = [
    (werkzeug.exceptions.MethodNotAllowed(["GET", "PUT"]), "Allow", "GET, PUT"),
    (werkzeug.exceptions.ServiceUnavailable(retry_after=120), "Retry-After", "120"),
    (werkzeug.exceptions.TooManyRequests(retry_after=7), "Retry-After", "7"),
    (
        werkzeug.exceptions.Unauthorized(
            www_authenticate=WWWAuthenticate("basic", {"realm": "here"})
        ),
        "WWW-Authenticate",
        "Basic realm=here",
    ),
    (
        werkzeug.exceptions.RequestedRangeNotSatisfiable(length=10),
        "Content-Range",
        "bytes */10",
    ),
]


@pytest.mark.parametrize(("error", "name", "value"), KEPT, ids=[name for _, name, _ in KEPT])
@pytest.mark.parametrize(
    ("debug", "accept"), [(False, "*/*"), (False, BROWSER), (True, "*/*"), (True, BROWSER)]
)
def test_a_problem_keeps_the_headers_of_its_exception(
    error: HTTPException, name: str, value: str, debug: bool, accept: str
) -> None:
    response = get(raising(lambda: error, debug=debug), headers={"Accept": accept})
    assert response.status_code == error.code
    assert response.headers.getlist(name) == [value]
    assert len(response.headers.getlist("Content-Type")) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        OSError(5, SECRET),
        UnicodeDecodeError("x", b"", 0, 1, SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("accept", ["*/*", BROWSER, "application/json"])
def test_nothing_of_an_unexpected_error_leaves_the_process(error: Exception, accept: str) -> None:
    response = get(raising(lambda: error), headers={"Accept": accept})
    assert response.status_code == 500
    assert response.content_type == "application/problem+json"
    assert response.json == {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    everything = f"{response.status} {response.headers} {response.text}"
    for trace in (SECRET, "hunter2", "Traceback", type(error).__name__, "test_app"):
        assert trace not in everything


def test_an_unexpected_error_is_logged_once_with_its_route_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, router = create_app(), create_router()
    app.use(router)
    router.post("/users/:id", fails)
    get(Client(app), "/users/7", "POST")
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.name.startswith("vento_wsgi")
    assert record.getMessage() == "POST /users/:id failed".replace(":id", "<id>")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)
    assert "in fails" in caplog.text


def test_an_error_of_middleware_is_logged_with_the_path(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Context, __: Next) -> WerkzeugResponse:
        raise RuntimeError(SECRET)

    app = create_app()
    app.use(broken)
    assert get(Client(app), "/some/path").status_code == 500
    [record] = caplog.records
    assert record.getMessage() == "GET /some/path failed"


def test_an_error_does_not_leave_the_application_broken() -> None:
    client = Client(application())
    assert [get(client, path).status_code for path in ("/fails", "/text", "/fails", "/text")] == [
        500,
        200,
        500,
        200,
    ]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_is_not_held_up(error: type[BaseException]) -> None:
    with pytest.raises(error):
        get(raising(error))


def test_a_malformed_body_is_a_400_that_says_where() -> None:
    response = get(Client(application()), "/echo", "POST", data=b'{"a": }')
    assert response.status_code == 400
    assert response.json is not None
    assert "line 1, column 7" in response.json["detail"]


def test_a_body_past_the_limit_is_a_413() -> None:
    client = Client(application(max_content_length=10))
    assert get(client, "/echo", "POST", data=b"[1,2,3]").json == [1, 2, 3]
    assert get(client, "/echo", "POST", data=b"[1,2,3,4,5]").status_code == 413
    unlimited = Client(application(max_content_length=None))
    assert get(unlimited, "/echo", "POST", data=b"[1,2,3,4,5]").status_code == 200


def test_a_missing_field_of_the_query_is_a_400() -> None:
    app, router = create_app(), create_router()
    app.use(router)
    router.get("/", lambda ctx: ctx.text(ctx.query["q"]))
    assert get(Client(app), "/").status_code == 400


# abort().


def test_abort_may_be_given_the_response_itself(caplog: pytest.LogCaptureFixture) -> None:
    app, router = create_app(), create_router()
    app.use(router)
    router.get("/", lambda _: abort(Response("as it is", 418, {"X-A": "1"})))
    response = get(Client(app), "/")
    assert (response.status_code, response.text) == (418, "as it is")
    assert response.headers["X-A"] == "1"
    assert caplog.records == []


def test_an_http_exception_may_carry_its_response() -> None:
    carried = Response("as it is", 409, {"X-A": "1"})
    response = get(raising(lambda: werkzeug.exceptions.Conflict(response=carried)))
    assert (response.status_code, response.text) == (409, "as it is")


def test_abort_with_a_code_is_a_problem() -> None:
    response = get(Client(application()), "/forbidden")
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["detail"] == "not for you"


# Debug.


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "text/html;q=0.9,application/json;q=0.5"])
def test_debug_describes_an_error_to_a_browser_as_html(accept: str) -> None:
    response = get(raising(lambda: ValueError("<b>&"), debug=True), headers={"Accept": accept})
    assert response.status_code == 500
    assert response.content_type == "text/html; charset=utf-8"
    assert "Traceback" in response.text
    assert "ValueError: &lt;b&gt;&amp;" in response.text
    assert "<b>&" not in response.text
    assert __file__ in response.text


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/problem+json,text/html", ""]
)
def test_debug_describes_an_error_to_others_as_a_problem(accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    response = get(raising(lambda: ValueError("why"), debug=True), headers=headers)
    assert response.status_code == 500
    assert response.content_type == "application/problem+json"
    assert response.json is not None
    assert response.json["detail"] == "ValueError: why"
    assert "Traceback" not in response.text


def test_debug_shows_a_browser_an_http_exception_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = get(
        raising(lambda: werkzeug.exceptions.Conflict("taken <i>"), debug=True),
        headers={"Accept": BROWSER},
    )
    assert response.status_code == 409
    assert "409 Conflict" in response.text
    assert "taken &lt;i&gt;" in response.text
    assert "Traceback" not in response.text
    assert caplog.records == []


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def chained() -> Exception:
    try:
        try:
            raise ValueError("<script>'\"")
        except ValueError as error:
            raise KeyError("<second>") from error
    except KeyError as error:
        return error


Conflict: Any = werkzeug.exceptions.Conflict


@pytest.mark.parametrize(
    "error",
    [
        *(Speechless(), ValueError("\ud800\0<i>"), ValueError("x" * 10_000_000), chained()),
        *(Conflict("\ud800"), Conflict(b"\xff<i>"), Conflict(5), Conflict(Speechless())),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("accept", ["*/*", BROWSER])
@pytest.mark.parametrize("debug", [True, False])
def test_any_error_can_be_described(error: Exception, accept: str, debug: bool) -> None:
    response = get(raising(lambda: error, debug=debug), headers={"Accept": accept})
    assert response.status_code in (409, 500)
    assert len(response.data) < 100_000
    if response.mimetype == "text/html":
        assert "<i>" not in response.text
        assert "<script>" not in response.text
        assert "<second>" not in response.text
    else:
        assert response.mimetype == "application/problem+json"
        assert response.json is not None


def test_debug_shows_all_of_a_group_of_exceptions() -> None:
    group: Any = getattr(builtins, "ExceptionGroup", None)  # from Python 3.11 on
    if group is not None:
        error = group("<i>", [ValueError("<b>"), Speechless()])
        response = get(raising(lambda: error, debug=True), headers={"Accept": BROWSER})
        assert "ValueError: &lt;b&gt;" in response.text
        assert "&lt;i&gt;" in response.text


def test_debug_logs_an_error_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    get(raising(lambda: ValueError("why"), debug=True), headers={"Accept": BROWSER})
    [record] = caplog.records
    assert record.exc_info is not None


# Servers that refuse a head.


class StrictServer:
    """A server's start_response, as strict as PEP 3333 allows, and forgetful of nothing.

    Like gunicorn's it looks at one header after the other and keeps those that it has seen, also
    when it refuses the next one and the application starts anew.
    """

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if self.status and not exc_info:
            raise AssertionError("start_response was called twice")
        if not status.isprintable():
            raise ValueError("the status line has a control character")
        self.status = status
        for name, value in headers:
            if not (name.isascii() and name.replace("-", "").isalnum()):
                raise ValueError("a name is no token")
            if name == "X-Refused":
                raise ValueError("this server has its own reasons")
            if any(ord(char) < 32 or ord(char) == 127 or ord(char) > 255 for char in value):
                raise ValueError("a value has a character that it cannot have")
            self.headers.append((name, value))
        return lambda _: None


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Bad", "a\x01b"), ("X-Bad", "5 €"), ("X Bad", "a"), ("X-Größe", "a"), ("", "a")],
)
@pytest.mark.parametrize("body", ["whole", "streamed"])
def test_a_header_that_a_server_refuses_is_a_clean_500(
    name: str, value: str, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []

    def handler(ctx: Context) -> Response:
        if body == "whole":
            response = ctx.text(SECRET, headers={"X-Good": SECRET})
        else:
            response = ctx.stream(iter([SECRET]), "text/plain", headers={"X-Good": SECRET})
        response.call_on_close(lambda: closed.append(True))
        response.headers[name] = value
        return response

    app, router = create_app(), create_router()
    app.use(router)
    router.get("/", handler)
    server = StrictServer()
    chunks = app(create_environ("/"), server)
    sent = b"".join(chunks)
    getattr(chunks, "close", lambda: None)()

    assert server.status.startswith("500 ")
    assert dict(server.headers) == {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(sent)),
    }
    assert len(server.headers) == 2, "nothing of the refused head may stay"
    assert json.loads(sent)["status"] == 500
    assert SECRET.encode() not in sent
    assert closed == [True]
    [record] = caplog.records
    assert record.exc_info is not None


@pytest.mark.parametrize(
    "response",
    [
        lambda: Response("x", "200 O\nK"),
        lambda: Response(iter("x"), 200, {"X-Refused": "for reasons that only the server has"}),
    ],
)
def test_a_head_that_a_server_refuses_is_a_500(
    response: Callable[[], Response], caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []

    def handler(_: Context) -> Response:
        answer = response()
        answer.call_on_close(lambda: closed.append(True))
        return answer

    app, router = create_app(), create_router()
    app.use(router)
    router.get("/", handler)
    server = StrictServer()
    sent = b"".join(app(create_environ("/"), server))
    assert server.status.startswith("500 ")
    assert json.loads(sent)["status"] == 500
    assert closed == [True]
    assert len(caplog.records) == 1


# Setting up.


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "a middleware is a function, not None"),
        ("router", "a middleware is a function, not 'router'"),
        (lambda ctx: ctx, r"a middleware takes \(ctx, next\)"),
        (create_app(), "mount"),
        (create_app, r"a middleware takes \(ctx, next\)"),
    ],
)
def test_what_is_neither_router_nor_middleware_is_refused(item: Any, message: str) -> None:
    with pytest.raises(RouteError, match=message):
        create_app().use(item)


def test_use_gives_back_what_it_was_given() -> None:
    app, router = create_app(), create_router()
    assert app.use(router) is router

    assert app.use(passing) is passing


@pytest.mark.parametrize(
    "change",
    [
        lambda app: app.use(create_router()),
        lambda app: app.use(passing),
        lambda app: app.mount("/late", create_app()),
    ],
)
def test_an_application_cannot_change_after_the_first_request(
    change: Callable[[App], object],
) -> None:
    app = create_app()
    get(Client(app), "/")
    with pytest.raises(RouteError, match="before the first request"):
        change(app)


def test_applications_are_apart() -> None:
    one, two = create_app(), create_app()
    router = create_router()
    router.get("/", lambda ctx: ctx.text("one"))
    one.use(router)
    assert get(Client(one), "/").text == "one"
    assert get(Client(two), "/").status_code == 404


# Mounts.


def legacy(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    names = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
    return [json.dumps({name: environ[name] for name in names}).encode()]


@pytest.mark.parametrize(
    ("url", "script_name", "path_info"),
    [
        ("/old", "/old", ""),
        ("/old/", "/old", "/"),
        ("/old/a/b", "/old", "/a/b"),
        ("/old/older", "/old", "/older"),
        ("/old/new", "/old/new", ""),
        ("/old/new/x", "/old/new", "/x"),
        ("/old/newer", "/old", "/newer"),
    ],
)
def test_a_mounted_application_sees_its_prefix_as_script_name(
    url: str, script_name: str, path_info: str
) -> None:
    app = create_app()
    app.mount("/old", legacy)
    app.mount("/old/new", legacy)
    response = get(Client(app), f"{url}?a=1")
    assert response.json == {
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": "a=1",
    }


def test_a_mount_below_a_root_adds_to_script_name() -> None:
    app = create_app()
    app.mount("/old", legacy)
    response = get(Client(app), "/old/x", base_url="http://localhost/root")
    assert response.json is not None
    assert response.json["SCRIPT_NAME"] == "/root/old"


def test_a_path_that_only_begins_like_a_mount_is_the_applications_own() -> None:
    app, router = create_app(), create_router()
    app.use(router)
    app.mount("/old", legacy)
    router.get("/older", lambda ctx: ctx.text("own"))
    assert get(Client(app), "/older").text == "own"


def test_a_mount_goes_before_the_routes() -> None:
    app, router = create_app(), create_router()
    app.use(router)
    router.get("/old/x", lambda ctx: ctx.text("own"))
    app.mount("/old", legacy)
    assert get(Client(app), "/old/x").json is not None


def test_a_mount_may_have_a_prefix_in_any_script() -> None:
    app = create_app()
    app.mount("/größe", legacy)
    response = get(Client(app), "/größe/x")
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["PATH_INFO"] == "/x"


def test_an_application_may_be_mounted_in_another() -> None:
    inner, router = create_app(), create_router()
    inner.use(router)
    router.get("/x", lambda ctx: ctx.text(f"{ctx.path} {ctx.url}"))
    app = create_app()
    app.mount("/inner", inner)
    assert get(Client(app), "/inner/x").text == "/x http://localhost/inner/x"


def test_middleware_leaves_mounted_applications_alone() -> None:
    def broken(_: Context, __: Next) -> WerkzeugResponse:
        raise RuntimeError

    app = create_app()
    app.use(broken)
    app.mount("/old", legacy)
    assert get(Client(app), "/old").status_code == 200


@pytest.mark.parametrize("prefix", ["", "/", "old", "/old/", "//"])
def test_a_mounts_prefix_begins_with_a_slash_and_ends_without(prefix: str) -> None:
    with pytest.raises(RouteError, match=f"a mount is below a path like '/old', not '{prefix}'"):
        create_app().mount(prefix, legacy)


def test_a_prefix_is_mounted_once() -> None:
    app = create_app()
    app.mount("/old", legacy)
    with pytest.raises(RouteError, match="'/old' is mounted already"):
        app.mount("/old", legacy)


@pytest.mark.parametrize("mounted", [None, "module:app", create_router()])
def test_what_cannot_be_called_is_not_mounted(mounted: Any) -> None:
    with pytest.raises(RouteError, match="a mount takes a WSGI application"):
        create_app().mount("/old", mounted)


# PEP 3333.


RANGES = {"Range": "bytes=2-4"}, {"Range": "bytes=1-2,4-5"}, {"Range": "bytes=99999999-"}
CONDITIONS = {"If-None-Match": "*"}, {"If-Match": '"x"'}, {"If-Modified-Since": EPOCH}


@pytest.fixture(scope="module")
def checked() -> Callable[..., Any]:
    """An application whose every answer wsgiref.validate looks at."""
    app = application()
    app.mount("/old", legacy)
    return validator(app)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", PATHS)
def test_wsgiref_finds_nothing_to_say(
    path: str, method: str, checked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"[1]" if method == "POST" else None
    look(checked, create_environ(path, method=method, data=data))
    # what it says is an exception out of start_response, of which the application makes a 500
    expected = ["/fails"] if path == "/fails" and method in ("GET", "HEAD") else []
    assert [record.getMessage().split()[1] for record in caplog.records] == expected


@pytest.mark.parametrize("headers", [*RANGES, *CONDITIONS], ids=str)
@pytest.mark.parametrize("path", ["/bytes", "/file", "/stream"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_wsgiref_finds_nothing_to_say_of_conditions_and_ranges(
    path: str,
    method: str,
    headers: dict[str, str],
    checked: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    look(checked, create_environ(path, method=method, headers=headers))
    assert caplog.records == []


def look(checked: Any, environ: dict[str, Any]) -> None:
    body, status, _ = run_wsgi_app(checked, environ)
    try:
        b"".join(body)
    finally:
        body.close()  # type: ignore[attr-defined]
    assert status[:3].isdigit()


def test_no_hop_by_hop_header_leaves_the_application() -> None:
    app, router = create_app(), create_router()
    app.use(router)
    headers = {"Connection": "keep-alive", "Keep-Alive": "timeout=5", "X-A": "1"}
    router.get("/", lambda ctx: ctx.stream(iter("x"), headers=headers))
    response = get(Client(app), "/")
    assert response.status_code == 200
    assert {"Connection", "Keep-Alive"}.isdisjoint(response.headers.keys())
    assert response.headers["X-A"] == "1"


# The examples of the front page.


EXAMPLE = """
import json, time
from vento_wsgi import Event, Response, create_app, create_router

router = create_router()

@router.get("/events")
def events(ctx):
    def ticks():
        for count in range(1, 6):
            yield f"data: {json.dumps({'count': count, 'time': time.time()})}\\n\\n"
            time.sleep(1)
    return ctx.stream(ticks(), "text/event-stream")

@router.post("/ai/chat")
def chat(ctx):
    message = ctx.request.json()["message"]
    def words():
        for word in answer(message):
            yield Event({"text": word})
        yield Event("[DONE]")
    return Response(words(), headers={"Content-Type": "text/event-stream",
                                      "Cache-Control": "no-cache",
                                      "Connection": "keep-alive"})

@router.get("/download")
def download(ctx):
    return ctx.stream(open("large-file.zip", "rb"), "application/zip")

@router.get("/ticks", content_type="text/event-stream")  # a handler may itself be a generator
def ticks(ctx):
    yield Event({"n": 1})

app = create_app()
app.use(router)            # a router, or a middleware (ctx, next) -> Response
app.mount("/old", legacy)  # any WSGI application
"""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("large-file.zip", "w") as archive:
        archive.writestr("name", "content")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    names: dict[str, Any] = {"answer": str.split, "legacy": legacy}
    exec(EXAMPLE, names)
    return Client(names["app"])


def test_the_example_of_events_sends_five(example: Client) -> None:
    response = get(example, "/events")
    assert response.headers.getlist("Content-Type") == ["text/event-stream"]
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    events = [event for event in decode([response.data]) if event.data is not None]
    assert [json.loads(event.data or "")["count"] for event in events] == [1, 2, 3, 4, 5]


def test_the_example_of_a_chat_sends_words_and_then_done(example: Client) -> None:
    response = get(example, "/ai/chat", "POST", json={"message": "good morning"})
    assert response.status_code == 200
    assert response.headers.getlist("Content-Type") == ["text/event-stream"]
    assert response.headers.getlist("Cache-Control") == ["no-cache"]
    assert "Connection" not in response.headers
    data = [event.data for event in decode([response.data]) if event.data is not None]
    assert data == ['{"text":"good"}', '{"text":"morning"}', "[DONE]"]


def test_the_example_of_a_download_sends_the_file(example: Client) -> None:
    response = get(example, "/download")
    content = Path("large-file.zip").read_bytes()
    assert response.headers.getlist("Content-Type") == ["application/zip"]
    assert response.headers["Content-Length"] == str(len(content))
    assert response.data == content


def test_the_example_of_a_generator_that_handles_sends_its_event(example: Client) -> None:
    response = get(example, "/ticks")
    assert response.content_type == "text/event-stream"
    assert [e.data for e in decode([response.data]) if e.data is not None] == ['{"n":1}']


def test_the_example_of_a_mount_reaches_the_other_application(example: Client) -> None:
    response = get(example, "/old/page")
    assert response.json is not None
    assert response.json["PATH_INFO"] == "/page"


def test_routes_and_mounts_can_be_listed() -> None:
    app, router = create_app(), Router("/api")
    app.use(router)
    app.mount("/old", legacy)
    router.get("/x", fails)
    router.group("/g").post("/y", fails)
    listed = [(route.path, set(route.methods), route.name) for route in app.routes()]
    assert listed == [
        ("/api/x", {"GET"}, f"{__name__}.fails"),
        ("/api/g/y", {"POST"}, f"{__name__}.fails"),
    ]
    assert app.mounts() == {"/old": legacy}
