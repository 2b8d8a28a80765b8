"""cors: who may read a response, by the Fetch standard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.polyfills import polyfills
from werkzeug.test import TestResponse

from vento_wsgi import Context, Response, create_app, create_router
from vento_wsgi.middleware import cors
from vento_wsgi.testing import Client, StreamResponse

HERS = "https://her.example"
OTHER = "https://other.example"


def client(origins: Any = HERS, **options: Any) -> Client:
    router = create_router()

    @router.get("/text")
    def text(ctx: Context) -> Response:
        return ctx.text("text")

    @router.get("/stream")
    def stream(_: Context) -> Iterator[bytes]:
        yield b"one"

    @router.get("/fails")
    def fails(_: Context) -> Response:
        raise RuntimeError

    @router.get("/illegal")
    def illegal(ctx: Context) -> Response:
        return ctx.text("text", headers={"X-A": "€"})

    @router.get("/open")
    def opened(ctx: Context) -> Response:
        return ctx.text("text", headers={"Access-Control-Allow-Origin": "*", "Vary": "Accept"})

    @router.get("/varies")
    def varies(ctx: Context) -> Response:
        vary = [("Vary", "Accept, origin"), ("Vary", "Cookie")]
        return ctx.text("text", headers=vary)

    @router.get("/any")
    def anything(ctx: Context) -> Response:
        return ctx.text("text", headers={"Vary": "*"})

    app = create_app()
    app.use(cors(origins, **options))
    app.use(router)
    return Client(app)


def get(client: Client, path: str = "/text", origin: str | None = HERS) -> TestResponse:
    return client.get(path, headers={"Origin": origin} if origin else {})


def preflight(
    client: Client, method: str = "GET", headers: str | None = None, origin: str = HERS
) -> TestResponse:
    fields = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers is not None:
        fields["Access-Control-Request-Headers"] = headers
    return client.options("/text", headers=fields)


def shared(response: TestResponse | StreamResponse) -> dict[str, str]:
    """The headers of the protocol, without their prefix."""
    start = "Access-Control-"
    return {k.removeprefix(start): v for k, v in response.headers.items() if k.startswith(start)}


# Who may read.


@pytest.mark.parametrize(
    ("path", "status"),
    [("/text", 200), ("/stream", 200), ("/none", 404), ("/fails", 500), ("/illegal", 500)],
)
def test_every_response_says_that_an_allowed_page_may_read_it(path: str, status: int) -> None:
    with client().stream("GET", path, headers={"Origin": HERS}) as response:
        assert response.status_code == status
        assert shared(response) == {"Allow-Origin": HERS}
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", [OTHER, None, "null", f"{HERS}.evil", HERS.upper(), f"{HERS}:8443"]
)
@pytest.mark.parametrize("path", ["/text", "/none", "/fails"])
def test_to_anybody_else_it_only_says_that_it_depends_on_the_origin(
    path: str, origin: str | None
) -> None:
    response = get(client(credentials=True, expose=["ETag"]), path, origin)
    assert shared(response) == {}
    assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origins",
    [
        [OTHER, HERS],
        {HERS},
        (name for name in (HERS, OTHER)),
        re.compile(r"https://her\.example"),
        lambda origin: origin == HERS,
    ],
)
def test_origins_may_be_several_a_pattern_or_a_function(origins: Any) -> None:
    tested = client(origins)
    assert shared(get(tested)) == {"Allow-Origin": HERS}
    assert shared(get(tested, origin=f"{HERS}.evil")) == {}


def test_what_everybody_may_read_does_not_depend_on_the_origin() -> None:
    for origins in ("*", ["*"]):
        for origin in (HERS, None, "null"):
            response = get(client(origins), origin=origin)
            assert shared(response) == {"Allow-Origin": "*"}
            assert "Vary" not in response.headers


def test_credentials_are_allowed_to_the_origin_by_its_name() -> None:
    found = shared(get(client(credentials=True)))
    assert found == {"Allow-Origin": HERS, "Allow-Credentials": "true"}


def test_exposed_headers_are_named_on_responses_and_not_on_preflights() -> None:
    tested = client(expose=("ETag", "X-Total"))
    assert shared(get(tested))["Expose-Headers"] == "ETag, X-Total"
    assert "Expose-Headers" not in shared(preflight(tested))
    assert shared(get(client(expose="*")))["Expose-Headers"] == "*"


def test_what_a_response_says_for_itself_is_kept() -> None:
    response = get(client(credentials=True), "/open", OTHER)
    assert shared(response) == {"Allow-Origin": "*"}
    assert response.headers["Vary"] == "Accept, Origin"


@pytest.mark.parametrize(("path", "vary"), [("/varies", "Accept, origin, Cookie"), ("/any", "*")])
def test_vary_names_the_origin_once(path: str, vary: str) -> None:
    headers = get(client(), path).headers
    assert ", ".join(headers.getlist("Vary")) == vary


# Preflights.


def test_a_preflight_is_answered_with_what_may_be_sent() -> None:
    tested = client(methods=["GET", "PUT"], headers=["X-Token"], credentials=True, max_age=60)
    response = preflight(tested, "PUT", "content-type,, X-Token")
    assert (response.status_code, response.data) == (204, b"")
    found = shared(response)
    names = found.pop("Allow-Headers").lower().split(", ")
    assert {"content-type", "last-event-id", "range", "x-token"} <= set(names)
    assert found == {
        "Allow-Origin": HERS,
        "Allow-Credentials": "true",
        "Allow-Methods": "GET, PUT",
        "Max-Age": "60",
    }
    assert {name.strip() for name in response.headers["Vary"].split(",")} == {
        "Origin",
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
    }
    assert "Max-Age" not in shared(preflight(client(max_age=None)))


@pytest.mark.parametrize(
    ("method", "headers", "origin", "says"),
    [
        ("PUT", None, HERS, "methods do not include PUT"),
        ("get", None, HERS, "methods do not include get"),
        ("POST", "x-token,x-other", HERS, "headers do not include x-other"),
        ("GET", None, OTHER, f"origins do not include {OTHER}"),
    ],
)
def test_a_preflight_for_anything_else_is_refused_with_the_reason(
    method: str, headers: str | None, origin: str, says: str
) -> None:
    response = preflight(client(methods=[], headers=["X-Token"]), method, headers, origin)
    assert response.status_code == 403
    assert response.json is not None
    assert says in response.json["detail"]
    assert set(shared(response)) == ({"Allow-Origin"} if origin == HERS else set())
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_safelisted_methods_and_resumption_need_no_permission(method: str) -> None:
    tested = client(methods=[])
    assert preflight(tested, method, "content-type,last-event-id,range").status_code == 204


@polyfills
def test_the_headers_of_polyfills_need_no_permission(headers: dict[str, str]) -> None:
    asked = ",".join(sorted(name.lower() for name in headers))
    assert preflight(client(), "GET", asked).status_code == 204


def test_credentials_in_a_header_need_permission() -> None:
    assert preflight(client(), "GET", "authorization").status_code == 403


def test_whatever_is_asked_for_can_be_allowed_by_its_name() -> None:
    tested = client("*", methods="*", headers="*")
    found = shared(preflight(tested, "PURGE", "authorization, x-a"))
    assert found["Allow-Methods"] == "PURGE"
    assert found["Allow-Headers"] == "authorization, x-a"
    assert found["Allow-Origin"] == "*"
    assert preflight(tested, "GET", "x a").status_code == 403


def test_options_that_are_no_preflight_go_on() -> None:
    response = client().options("/text", headers={"Origin": HERS})
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert shared(response) == {"Allow-Origin": HERS}
    assert client().options("/text").status_code == 204


# What cannot be meant.


@pytest.mark.parametrize("name", ["origins", "methods", "headers", "expose"])
@pytest.mark.parametrize("star", ["*", ["*"]])
def test_everything_is_never_allowed_with_credentials(name: str, star: Any) -> None:
    options = {"origins": HERS, name: star}
    with pytest.raises(ValueError, match=rf'{name} cannot be "\*" with credentials'):
        cors(**options, credentials=True)


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ("https://her.example/", "write 'https://her.example'"),
        ("https://her.example/app", "write 'https://her.example'"),
        ("HTTPS://Her.Example", "write 'https://her.example'"),
        ("https://her.example:443", "write 'https://her.example'"),
        ("http://[::1]:80", r"write 'http://\[::1\]'"),
        ("https://me@her.example", "write 'https://her.example'"),
        ("her.example", "is no origin"),
        ("https://", "is no origin"),
        ("https://ü.example", "is no origin"),
        ("", "is no origin"),
        ("https://*.example", "re.compile"),
        (7, "an origin is text"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cors([origin])


@pytest.mark.parametrize(
    "origin", ["http://[::1]:8000", "https://her.example:80", "chrome-extension://abc", "null"]
)
def test_origins_of_all_kinds_are_taken(origin: str) -> None:
    assert shared(get(client(origin), origin=origin)) == {"Allow-Origin": origin}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"origins": []}, "takes the origins"),
        ({"origins": ["*", HERS]}, "must stand alone"),
        ({"origins": "null", "credentials": True}, "sandboxed"),
        ({"methods": "PUT"}, r"\['PUT'\]"),
        ({"methods": ["put"]}, "'PUT'"),
        ({"headers": ["X Token"]}, "not a valid name"),
        ({"headers": ["*", "X-Token"]}, "must stand alone"),
        ({"max_age": -1}, "max_age"),
        ({"max_age": 1.5}, "max_age"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cors(**{"origins": HERS, **options})


# What it stands on: a function that is called with the response that leaves.


def test_a_function_that_fails_on_the_response_does_not_leave_it_open() -> None:
    closed: list[str] = []
    router = create_router()

    @router.get("/")
    def home(ctx: Context) -> Response:
        def refuse(_: object) -> None:
            if not closed:
                raise RuntimeError

        ctx.on_response(refuse)
        response = ctx.text("text")
        response.call_on_close(lambda: closed.append("it"))
        return response

    app = create_app()
    app.use(router)
    with Client(app).stream("GET", "/") as answer:
        assert answer.status_code == 500
    assert closed == ["it"]
