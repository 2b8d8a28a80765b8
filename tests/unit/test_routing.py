"""Which handler answers, and what runs around it."""

import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from werkzeug.exceptions import Conflict
from werkzeug.test import Client, TestResponse
from werkzeug.wrappers import Response as WerkzeugResponse

from vento_wsgi import Context, Event, Response, RouteError, Router, create_app, create_router
from vento_wsgi.routing import Middleware, Next

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


def hello(ctx: Context) -> Response:
    return ctx.text("hello")


def client(*items: Router | Middleware) -> Client:
    app = create_app()
    for item in items:
        app.use(item)
    return Client(app)


def ask(router: Router, path: str, method: str = "GET") -> TestResponse:
    return client(router).open(path, method=method, buffered=True)


def params(path: str, url: str) -> Any:
    """What a handler at `path` finds in ctx.params when `url` is asked for; None for a 404."""
    router = create_router()
    router.route(path, lambda ctx: ctx.json(dict(ctx.params)))
    response = ask(router, url)
    return response.json if response.status_code == 200 else None


# Verbs.


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_a_decorator_that_leaves_the_handler_as_it_is(verb: str) -> None:
    router = create_router()
    assert getattr(router, verb.lower())("/x")(hello) is hello
    response = ask(router, "/x", verb)
    assert response.status_code == 200
    assert response.text == ("" if verb == "HEAD" else "hello")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_a_call(verb: str) -> None:
    router = create_router()
    assert getattr(router, verb.lower())("/x", hello) is hello
    assert ask(router, "/x", verb).status_code == 200


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_answers_its_own_method_alone(verb: str) -> None:
    router = create_router()
    getattr(router, verb.lower())("/x", hello)
    own = {"GET": {"GET", "HEAD"}}.get(verb, {verb})
    answered = {other for other in VERBS if ask(router, "/x", other).status_code == 200}
    assert answered == own


def test_route_answers_all_the_methods_it_is_given() -> None:
    router = create_router()

    @router.route("/x", methods=["GET", "post", "PROPFIND"])
    def method(ctx: Context) -> Response:
        return ctx.text(ctx.method)

    assert ask(router, "/x", "GET").text == "GET"
    assert ask(router, "/x", "POST").text == "POST"
    assert ask(router, "/x", "PROPFIND").text == "PROPFIND"
    assert ask(router, "/x", "PUT").status_code == 405


def test_route_answers_get_when_no_methods_are_given() -> None:
    router = create_router()
    router.route("/x", hello)
    assert ask(router, "/x").status_code == 200
    assert ask(router, "/x", "POST").status_code == 405


@pytest.mark.parametrize("head_first", [True, False])
@pytest.mark.parametrize("methods", [["HEAD"], ["HEAD", "POST"]])
def test_a_head_route_is_preferred_to_the_one_that_comes_with_get(
    head_first: bool, methods: list[str]
) -> None:
    router = create_router()
    registrations: list[Callable[[], object]] = [
        lambda: router.route(
            "/x", lambda ctx: ctx.text("", headers={"X-By": "head"}), methods=methods
        ),
        lambda: router.route("/x", lambda ctx: ctx.text("", headers={"X-By": "get"})),
    ]
    for register in registrations if head_first else reversed(registrations):
        register()
    assert ask(router, "/x", "HEAD").headers["X-By"] == "head"
    assert ask(router, "/x", "GET").headers["X-By"] == "get"


def test_one_path_may_have_another_handler_for_each_method() -> None:
    router = create_router()
    router.get("/x", lambda ctx: ctx.text("read"))
    router.post("/x", lambda ctx: ctx.text("written"))
    assert ask(router, "/x").text == "read"
    assert ask(router, "/x", "POST").text == "written"


# Paths.


@pytest.mark.parametrize(
    ("path", "url", "found"),
    [
        ("/users/<int:id>", "/users/7", {"id": 7}),
        ("/users/<int:id>", "/users/seven", None),
        ("/files/<path:name>", "/files/a/b.txt", {"name": "a/b.txt"}),
        ("/<any(cats, dogs):kind>", "/dogs", {"kind": "dogs"}),
        ("/<any(cats, dogs):kind>", "/cows", None),
        ("/users/:id", "/users/ann", {"id": "ann"}),
        ("/users/:id", "/users/ann/pets", None),
        ("/users/:id<int>", "/users/7", {"id": 7}),
        ("/users/:id<int>", "/users/seven", None),
        ("/files/:name<path>", "/files/a/b.txt", {"name": "a/b.txt"}),
        ("/:kind<any(cats, dogs)>", "/cats", {"kind": "cats"}),
        ("/:code<string(length=2)>", "/de", {"code": "de"}),
        ("/:code<string(length=2)>", "/deu", None),
        ("/:a/<int:b>/:c<int>/x", "/1/2/3/x", {"a": "1", "b": 2, "c": 3}),
        ("/files/:name.json", "/files/data.json", {"name": "data"}),
        ("/users/:id", "/users/J%C3%BCrgen", {"id": "Jürgen"}),
        ("/größe/:id", "/gr%C3%B6%C3%9Fe/1", {"id": "1"}),
    ],
)
def test_a_path_hands_its_parameters_to_the_handler(path: str, url: str, found: Any) -> None:
    assert params(path, url) == found


def test_a_colon_within_a_segment_is_literal() -> None:
    assert params("/v1/users:batch", "/v1/users:batch") == {}
    assert params("/v1/users:batch", "/v1/usersbatch") is None
    assert params("/v1/:name:publish", "/v1/news:publish") == {"name": "news"}


def test_a_colon_within_a_converter_is_the_converters() -> None:
    router = create_router()
    router.route("/<any('/:a', b):kind>", hello)
    assert [route.path for route in router.routes()] == ["/<any('/:a', b):kind>"]


def test_a_literal_path_is_preferred_to_a_parameter() -> None:
    router = create_router()
    router.get("/users/:id", lambda ctx: ctx.text("someone"))
    router.get("/users/me", lambda ctx: ctx.text("me"))
    assert ask(router, "/users/me").text == "me"
    assert ask(router, "/users/ann").text == "someone"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("users", r"'users' needs a leading slash: '/users'"),
        (":id", r"':id' needs a leading slash: '/:id'"),
        ("/users/<int:id", r"'/users/<int:id'.*malformed"),
        ("/users/<hex:id>", r"'/users/<hex:id>'.*'hex'"),
        ("/users/:id<hex>", r"'/users/:id<hex>'.*'hex'"),
        ("/users/:id/pets/:id", r"'/users/:id/pets/:id'.*'id'"),
        ("/users/<int:1>", r"'/users/<int:1>'"),
    ],
)
def test_a_path_that_cannot_be_is_refused_when_it_is_given(path: str, message: str) -> None:
    with pytest.raises(RouteError, match=message):
        create_router().route(path, hello)
    with pytest.raises(RouteError, match=message):
        create_router(path)
    with pytest.raises(RouteError, match=message):
        create_router().group(path)


def test_a_decorator_without_its_path_is_refused() -> None:
    path: Any = hello
    with pytest.raises(RouteError, match="path"):
        create_router().route(path)
    with pytest.raises(RouteError, match="path"):
        create_router().get(path)


def test_a_parameter_of_the_prefix_cannot_be_named_again_in_the_path() -> None:
    router = create_router("/users/:id")
    router.route("/pets/:pet", hello)
    with pytest.raises(RouteError, match="id"):
        router.route("/friends/:id", hello)


@pytest.mark.parametrize("methods", ["GET", "", []])
def test_methods_are_a_list_that_is_not_empty(methods: Any) -> None:
    with pytest.raises(RouteError, match="methods"):
        create_router().route("/x", hello, methods=methods)


# Handlers.


async def coroutine(ctx: Context) -> Response:
    return ctx.text("")


async def async_generator(ctx: Context) -> Any:
    yield ctx.path


class AsyncCallable:
    async def __call__(self, ctx: Context) -> Response:
        return ctx.text("")


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (coroutine, r"synchronous: write coroutine with def, not async def"),
        (async_generator, r"synchronous: write async_generator with def, not async def"),
        (functools.partial(coroutine), r"synchronous"),
        (AsyncCallable(), r"synchronous"),
        (lambda: None, r"a handler takes \(ctx\); .*<lambda>"),
        (lambda _, __: None, r"a handler takes \(ctx\); .*<lambda>"),
        ("module.handler", r"a handler is a function, not 'module\.handler'"),
        (7, r"a handler is a function, not 7"),
    ],
)
def test_what_cannot_handle_a_request_is_refused(handler: Any, message: str) -> None:
    with pytest.raises(RouteError, match=message):
        create_router().route("/x", handler)


class Pages:
    def show(self, ctx: Context) -> Response:
        return ctx.text("shown")

    def __call__(self, ctx: Context, *, more: str = "called") -> Response:
        return ctx.text(more)


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (hello, "hello"),
        (Pages().show, "shown"),
        (Pages(), "called"),
        (functools.partial(hello), "hello"),
        (lambda ctx, more="default": ctx.text(more), "default"),
        (lambda *args: args[0].text("any"), "any"),
    ],
)
def test_whatever_can_be_called_with_the_context_is_a_handler(handler: Any, answer: str) -> None:
    router = create_router()
    router.route("/x", handler)
    assert ask(router, "/x").text == answer


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/x", "/x"),
        ("/:id", "/<id>"),
        ("/:id<int>", "/<int:id>"),
    ],
)
def test_the_same_path_and_method_cannot_be_answered_twice(first: str, second: str) -> None:
    router = create_router()
    router.route(first, hello, methods=["GET", "POST"])
    with pytest.raises(RouteError, match=rf"'{second}' is answered by .*hello already"):
        router.route(second, hello, methods=["post", "PUT"])
    router.route(second, hello, methods=["PUT"])


def test_a_handler_may_be_a_generator_with_a_content_type() -> None:
    router = create_router()

    @router.route("/ticks", content_type="text/event-stream")
    def ticks(ctx: Context) -> Iterator[Event]:
        yield Event({"n": int(ctx.query["n"])})
        yield Event("done")

    response = ask(router, "/ticks?n=1")
    assert response.content_type == "text/event-stream"
    assert response.data.endswith(b'data: {"n":1}\n\ndata: done\n\n')


def test_a_generator_without_a_content_type_is_bytes() -> None:
    router = create_router()

    @router.route("/bytes")
    def numbers(_: Context) -> Iterator[bytes]:
        yield from (b"1", b"2")

    response = ask(router, "/bytes")
    assert response.content_type == "application/octet-stream"
    assert response.data == b"12"


def test_a_generator_that_handles_starts_only_when_its_body_is_asked_for() -> None:
    started = []
    router = create_router()

    @router.route("/x")
    def numbers(ctx: Context) -> Iterator[bytes]:
        started.append(ctx.path)
        yield b"1"

    with client(router).get("/x") as response:
        assert response.status_code == 200
        assert started == []
        assert response.data == b"1"
    assert started == ["/x"]
    assert ask(router, "/x", "HEAD").status_code == 200
    assert started == ["/x"]


def test_a_handler_may_answer_with_werkzeugs_own_response() -> None:
    router = create_router()
    router.route("/x", lambda _: WerkzeugResponse("plain", 202))
    response = ask(router, "/x")
    assert (response.status_code, response.text) == (202, "plain")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("text", r"returned str: return ctx\.text\("),
        ({"a": 1}, r"returned dict: return ctx\.json\("),
        ([1], r"returned list: return ctx\.json\("),
        (None, r"returned NoneType: return .* a Response"),
        (b"bytes", r"returned bytes: return ctx\.stream\("),
        (("text", 200), r"returned tuple: return .* a Response"),
    ],
)
def test_a_handler_that_returns_no_response_is_told_what_to_return(
    answer: object, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = create_router()

    def careless(_: Context) -> object:
        return answer

    router.route("/x", careless)
    response = ask(router, "/x")
    assert response.status_code == 500
    assert "careless" not in response.text
    [record] = caplog.records
    assert record.getMessage() == "GET /x failed"
    assert re.search(rf"TypeError: .*careless {message}", caplog.text)


# Prefixes and groups.


@pytest.mark.parametrize(
    ("prefix", "path", "url"),
    [
        ("/api", "/users", "/api/users"),
        ("/api/", "/users", "/api/users"),
        ("/api", "", "/api"),
        ("/api", "/", "/api/"),
        ("", "", "/"),
        ("", "/", "/"),
        ("/", "/users", "/users"),
    ],
)
def test_a_prefix_goes_before_every_path(prefix: str, path: str, url: str) -> None:
    router = create_router(prefix)
    router.route(path, hello)
    assert ask(router, url).text == "hello"
    assert [route.path for route in router.routes()] == [url]


def test_groups_stand_in_groups() -> None:
    router = create_router("/api")
    users = router.group("/users/:user<int>")
    pets = users.group("/pets")
    pets.route("/:pet", lambda ctx: ctx.json(dict(ctx.params)))
    users.route("", lambda ctx: ctx.json(dict(ctx.params)))
    assert ask(router, "/api/users/1/pets/rex").json == {"user": 1, "pet": "rex"}
    assert ask(router, "/api/users/1").json == {"user": 1}
    assert ask(router, "/users/1").status_code == 404


def test_an_application_takes_many_routers() -> None:
    one, two = create_router("/one"), create_router("/two")
    one.get("/x", lambda ctx: ctx.text("1"))
    two.get("/x", lambda ctx: ctx.text("2"))
    both = client(one, two)
    assert [both.get(f"/{name}/x", buffered=True).text for name in ("one", "two")] == ["1", "2"]


# Middleware.


def tracing(trace: list[str], name: str) -> Middleware:
    def layer(_: Context, next: Next) -> WerkzeugResponse:
        trace.append(name)
        response = next()
        trace.append(f"/{name}")
        return response

    return layer


def surrounded(
    layer: Middleware, where: str, handler: Callable[[Context], Response]
) -> TestResponse:
    """What `handler` answers with `layer` around it, as middleware of an app, router or route."""
    router = create_router(middleware=[layer] if where == "router" else [])
    router.route("/x", handler, middleware=[layer] if where == "route" else [])
    return client(*([layer] if where == "app" else []), router).get("/x", buffered=True)


def test_middleware_runs_from_the_application_inwards_and_back_out() -> None:
    trace: list[str] = []
    layer = functools.partial(tracing, trace)
    router = create_router(middleware=[layer("router 1")])
    group = router.group("/g", middleware=[layer("group 1")])
    group.use(layer("group 2"))
    router.use(layer("router 2"))
    group.get("/x", hello, middleware=[layer("route 1"), layer("route 2")])
    response = client(layer("app 1"), router, layer("app 2")).get("/g/x", buffered=True)
    assert response.text == "hello"
    inwards = [f"{of} {n}" for of in ("app", "router", "group", "route") for n in (1, 2)]
    assert trace == inwards + [f"/{name}" for name in reversed(inwards)]


def test_middleware_runs_around_its_own_router_and_route_alone() -> None:
    trace: list[str] = []
    router = create_router(middleware=[tracing(trace, "router")])
    router.group("/g", middleware=[tracing(trace, "group")]).get("/x", hello)
    router.get("/a", hello, middleware=[tracing(trace, "a")])
    router.get("/b", hello)
    other = create_router("/other")
    other.get("/x", hello)
    both = client(router, other)

    def seen(path: str) -> list[str]:
        trace.clear()
        assert both.get(path, buffered=True).text == "hello"
        return [name for name in trace if not name.startswith("/")]

    assert seen("/b") == ["router"]
    assert seen("/a") == ["router", "a"]
    assert seen("/g/x") == ["router", "group"]
    assert seen("/other/x") == []


def test_middleware_of_the_application_runs_when_no_route_matches() -> None:
    trace: list[str] = []
    asked = client(tracing(trace, "app"))
    assert asked.get("/nowhere", buffered=True).status_code == 404
    assert trace == ["app"]


def test_middleware_knows_the_parameters_of_its_route() -> None:
    def only_ann(ctx: Context, next: Next) -> WerkzeugResponse:
        return next() if ctx.params["name"] == "ann" else ctx.text("not you", 403)

    router = create_router(middleware=[only_ann])
    router.get("/:name", hello)
    assert ask(router, "/ann").text == "hello"
    assert ask(router, "/bob").status_code == 403


def test_middleware_may_answer_itself() -> None:
    def unreached(_: Context) -> Response:
        raise AssertionError("the handler was called")

    def closed(ctx: Context, _: Next) -> WerkzeugResponse:
        return ctx.text("closed", 503)

    router = create_router()
    router.route("/x", unreached, middleware=[closed])
    assert ask(router, "/x").status_code == 503


def test_middleware_may_change_the_response_or_give_another() -> None:
    def stamped(_: Context, next: Next) -> WerkzeugResponse:
        response = next()
        response.headers["X-Stamp"] = "1"
        return response

    def replaced(ctx: Context, next: Next) -> WerkzeugResponse:
        return ctx.text(next().get_data(as_text=True).upper())

    router = create_router(middleware=[stamped])
    router.get("/x", hello, middleware=[replaced])
    response = ask(router, "/x")
    assert response.text == "HELLO"
    assert response.headers["X-Stamp"] == "1"


@pytest.mark.parametrize("error", [KeyError("x"), Conflict("taken")])
@pytest.mark.parametrize("where", ["app", "router", "route"])
def test_middleware_may_make_a_response_of_an_exception(
    error: Exception, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: Context) -> Response:
        raise error

    def caught(ctx: Context, next: Next) -> WerkzeugResponse:
        try:
            return next()
        except type(error) as found:
            return ctx.text(f"caught {type(found).__name__}", 418)

    response = surrounded(caught, where, failing)
    assert response.text == f"caught {type(error).__name__}"
    assert caplog.records == []


def test_middleware_may_call_next_again() -> None:
    attempts: list[int] = []

    def second_time_lucky(ctx: Context) -> Response:
        attempts.append(1)
        if len(attempts) == 1:
            raise TimeoutError
        return ctx.text("lucky")

    def retrying(_: Context, next: Next) -> WerkzeugResponse:
        try:
            return next()
        except TimeoutError:
            return next()

    router = create_router(middleware=[retrying])
    router.get("/x", second_time_lucky)
    assert ask(router, "/x").text == "lucky"


def forgetful(_: Context, next: Next) -> Any:
    next()


@pytest.mark.parametrize("where", ["app", "router", "route"])
def test_middleware_that_returns_nothing_is_a_500_whose_log_names_it(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = surrounded(forgetful, where, hello)
    assert response.status_code == 500
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], TypeError)
    assert "forgetful returned None: return next(), or a Response" in str(record.exc_info[1])


async def async_layer(_: Context, next: Next) -> WerkzeugResponse:
    return next()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (async_layer, r"a middleware is synchronous: write async_layer with def"),
        (hello, r"a middleware takes \(ctx, next\); hello"),
        ("layer", r"a middleware is a function, not 'layer'"),
        (None, r"a middleware is a function, not None"),
    ],
)
def test_what_cannot_be_middleware_is_refused(layer: Any, message: str) -> None:
    router = create_router()
    with pytest.raises(RouteError, match=message):
        create_router(middleware=[layer])
    with pytest.raises(RouteError, match=message):
        router.use(layer)
    with pytest.raises(RouteError, match=message):
        router.group("/g", middleware=[layer])
    with pytest.raises(RouteError, match=message):
        router.route("/x", hello, middleware=[layer])


# After the first request.


@pytest.mark.parametrize(
    "change",
    [
        lambda router: router.get("/late", hello),
        lambda router: router.route("/late", methods=["PUT"])(hello),
        lambda router: router.group("/late"),
        lambda router: router.use(forgetful),
    ],
)
def test_a_router_cannot_change_after_the_first_request(
    change: Callable[[Router], object],
) -> None:
    router = create_router()
    group = router.group("/g")
    router.get("/x", hello)
    assert ask(router, "/x").text == "hello"
    for refusing in (router, group):
        with pytest.raises(RouteError, match="before the first request"):
            change(refusing)


def test_routes_may_be_added_after_the_application_took_the_router() -> None:
    app, router = create_app(), create_router()
    app.use(router)
    router.get("/x", hello)
    router.group("/g").get("/x", hello)
    assert Client(app).get("/x", buffered=True).text == "hello"
    assert Client(app).get("/g/x", buffered=True).text == "hello"
