"""Router: which handler answers which path and method, over werkzeug.routing.

A path is werkzeug's (``/users/<int:id>``), or its parameters are written ``:id`` or ``:id<int>``
at the start of a segment. A handler takes the Context and returns a Response; it may be a
generator function, whose items are the body. A middleware takes the Context and ``next``. It
calls ``next()``, which runs the inner middleware and the handler and returns their Response, and
returns this or another Response. The middleware of a router runs around that of a route.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import FloatConverter, Map, RequestRedirect, Rule, ValidationError
from werkzeug.wrappers import Response as WerkzeugResponse

from .context import BINARY, Context
from .exceptions import RouteError
from .response import Response
from .streaming.environ import ROUTE

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = [
    "Dispatcher",
    "Handler",
    "Middleware",
    "Route",
    "Router",
    "chain",
    "check_callable",
    "create_router",
]

Next = Callable[[], WerkzeugResponse]
Middleware = Callable[[Context, Next], WerkzeugResponse]
Handler = Callable[[Context], Any]
H = TypeVar("H", bound=Handler)

_PARAMETER = re.compile(r"<[^>]*>|(?<=/):([A-Za-z_]\w*)(<[^>]*>)?")


def _rule(path: str) -> str:
    def convert(match: re.Match[str]) -> str:
        name, converter = match.groups()
        if name is None:
            return match.group()
        return f"<{converter[1:-1]}:{name}>" if converter else f"<{name}>"

    if path and not path.startswith("/"):
        raise RouteError(f"the path {path!r} needs a leading slash: {'/' + path!r}")
    rule = _PARAMETER.sub(convert, path)
    try:
        Map([Rule(rule or "/")])
    except (ValueError, LookupError, SyntaxError) as error:  # werkzeug makes code of a path
        raise RouteError(f"the path {path!r}: {error}") from error
    return rule


def chain(
    middleware: Iterable[Middleware], inner: Callable[[Context], WerkzeugResponse]
) -> Callable[[Context], WerkzeugResponse]:
    """`inner` with `middleware` around it, the first of them outermost."""
    for layer in reversed(tuple(middleware)):
        inner = partial(_through, layer, inner)
    return inner


def _through(
    layer: Middleware, inner: Callable[[Context], WerkzeugResponse], ctx: Context
) -> WerkzeugResponse:
    made: list[WerkzeugResponse] = []

    def go_on() -> WerkzeugResponse:
        made.append(inner(ctx))
        return made[-1]

    try:
        response = layer(ctx, go_on)
        if not isinstance(response, WerkzeugResponse):
            raise TypeError(f"{_name(layer)} returned {response!r}: return next(), or a Response")
    except BaseException:
        for dropped in made:
            dropped.close()
        raise
    for replaced in made:
        if replaced is not response:  # its body may be in use by the other's
            response.call_on_close(replaced.close)
    return response


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


_ASYNC = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def check_callable(function: Any, what: str, arguments: int) -> None:
    if not callable(function):
        raise RouteError(f"{what} is a function, not {function!r}")
    called = (
        function
        if inspect.isroutine(function)
        else getattr(function, "func", type(function).__call__)
    )
    if any(is_async(each) for each in (function, called) for is_async in _ASYNC):
        raise RouteError(f"{what} is synchronous: write {_name(function)} with def, not async def")
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError as error:
        takes = "(ctx)" if arguments == 1 else "(ctx, next)"
        raise RouteError(f"{what} takes {takes}; {_name(function)}: {error}") from error
    except ValueError:  # some builtins have no signature
        return


@dataclass(frozen=True)
class Route:
    """A path, its methods, and what answers them."""

    path: str
    methods: frozenset[str]
    handler: Handler
    content_type: str | None = None
    middleware: tuple[Middleware, ...] = ()

    @property
    def name(self) -> str:
        """The handler's name, with its module."""
        return f"{getattr(self.handler, '__module__', '?')}.{_name(self.handler)}"

    def respond(self, ctx: Context) -> WerkzeugResponse:
        """What the handler answers, a generator turned into a stream."""
        result = self.handler(ctx)
        if isinstance(result, WerkzeugResponse):
            return result
        if isinstance(result, Generator):
            return ctx.stream(result, self.content_type or BINARY)
        kind = type(result).__name__
        instead = {"str": "text", "dict": "json", "list": "json"}.get(kind, "stream")
        raise TypeError(f"{self.name} returned {kind}: return ctx.{instead}(…) or a Response")


class Register(Protocol):
    """Takes a path and its handler, or a path and gives a decorator for the handler."""

    @overload
    def __call__(self, path: str, handler: None = None, **options: Any) -> Callable[[H], H]: ...
    @overload
    def __call__(self, path: str, handler: H, **options: Any) -> H: ...


class Router:
    """Routes and the middleware around them; ``app.use(router)`` takes them in.

    prefix: goes before every path. middleware: runs around every handler, first outermost.
    """

    def __init__(self, prefix: str = "", *, middleware: Iterable[Middleware] = ()) -> None:
        self._prefix = _rule(prefix.rstrip("/"))
        self._middleware = list(middleware)
        self._entries: list[Route | Router] = []
        self._sealed = False
        for layer in self._middleware:
            check_callable(layer, "a middleware", 2)

    @property
    def route(self) -> Register:
        """Have a handler answer ``methods=["GET"]`` at a path. GET answers HEAD as well.

        Options: methods, content_type (for a handler that is a generator function), middleware.
        Raises RouteError.
        """
        return partial(self._add)

    @property
    def get(self) -> Register:
        """``route`` for GET, and HEAD with it."""
        return partial(self._add, methods=("GET",))

    @property
    def post(self) -> Register:
        """``route`` for POST."""
        return partial(self._add, methods=("POST",))

    @property
    def put(self) -> Register:
        """``route`` for PUT."""
        return partial(self._add, methods=("PUT",))

    @property
    def patch(self) -> Register:
        """``route`` for PATCH."""
        return partial(self._add, methods=("PATCH",))

    @property
    def delete(self) -> Register:
        """``route`` for DELETE."""
        return partial(self._add, methods=("DELETE",))

    @property
    def head(self) -> Register:
        """``route`` for HEAD alone."""
        return partial(self._add, methods=("HEAD",))

    @property
    def options(self) -> Register:
        """``route`` for OPTIONS, in place of the answer that lists the methods."""
        return partial(self._add, methods=("OPTIONS",))

    def group(self, prefix: str, *, middleware: Iterable[Middleware] = ()) -> Router:
        """A router whose routes are this one's, below `prefix`."""
        self._open()
        router = Router(self._prefix + _rule(prefix), middleware=middleware)
        self._entries.append(router)
        return router

    def use(self, middleware: Middleware) -> Middleware:
        """Run `middleware` around every handler of this router, whenever it was added."""
        self._open()
        check_callable(middleware, "a middleware", 2)
        self._middleware.append(middleware)
        return middleware

    def routes(self) -> Iterator[Route]:
        """Every route, with the middleware of the routers that it belongs to."""
        for entry in self._entries:
            for route in (entry,) if isinstance(entry, Route) else entry.routes():
                yield replace(route, middleware=(*self._middleware, *route.middleware))

    def seal(self) -> None:
        """Called when the application serves: a route added later would never be found."""
        self._sealed = True
        for entry in self._entries:
            if isinstance(entry, Router):
                entry.seal()

    def _add(
        self,
        path: str,
        handler: Any = None,
        *,
        methods: Iterable[str] = ("GET",),
        content_type: str | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> Any:
        if not isinstance(path, str):
            raise RouteError(f"a path goes before the handler, as in get('/path'), not {path!r}")
        if handler is None:
            return partial(
                self._add, path, methods=methods, content_type=content_type, middleware=middleware
            )
        if isinstance(methods, str) or not methods:
            raise RouteError(f"methods is a list of one or more, as in ['GET'], not {methods!r}")
        self._open()
        layers = tuple(middleware)
        check_callable(handler, "a handler", 1)
        for layer in layers:
            check_callable(layer, "a middleware", 2)
        names = frozenset(method.upper() for method in methods)
        rule = _rule(self._prefix + _rule(path))
        route = Route(rule or "/", names, handler, content_type, layers)
        for other in self._entries:
            if isinstance(other, Route) and other.path == route.path and other.methods & names:
                raise RouteError(f"{path!r} is answered by {other.name} already")
        self._entries.append(route)
        return handler

    def _open(self) -> None:
        if self._sealed:
            raise RouteError("the application serves already: add routes before the first request")


class _Float(FloatConverter):
    """``<float:…>`` without infinity: a route does not match where digits overflow to it."""

    def to_python(self, value: str) -> Any:
        number = super().to_python(value)
        if not isfinite(number):
            raise ValidationError
        return number


class Dispatcher:
    """Finds the route of a request, and has it answered. It takes no more routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._rules = Map(converters={"float": _Float}, redirect_defaults=False)
        self._fixed: dict[tuple[str, str], tuple[str, Callable[[Context], WerkzeugResponse]]] = {}
        """What answers a method and a path without parameters, and the route as a text."""
        # a route for HEAD goes before a route for GET, which answers HEAD as well
        for route in sorted(routes, key=lambda route: "HEAD" not in route.methods):
            respond = chain(route.middleware, route.respond)
            rule = Rule(route.path, methods=route.methods, endpoint=(route.path, respond))
            self._rules.add(rule)
            if "<" not in route.path and route.path.isascii():
                for method in rule.methods or ():
                    found = f"{method} {route.path}", respond
                    self._fixed.setdefault((method, route.path), found)
        self._match = self._rules.bind("localhost").match

    def respond(self, ctx: Context) -> WerkzeugResponse:
        """The response to a request. Raises werkzeug's NotFound and other HTTPExceptions."""
        environ = ctx.environ
        found = self._fixed.get((environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")))
        if found is not None:
            environ[ROUTE], respond = found
            return respond(ctx)
        try:
            (path, respond), ctx.params = self._find(environ)
        except MethodNotAllowed as error:
            allowed = sorted({*(error.valid_methods or ()), "OPTIONS"})
            if ctx.method == "OPTIONS":
                return Response(status=204, headers={"Allow": ", ".join(allowed)})
            raise MethodNotAllowed(allowed) from None
        environ[ROUTE] = f"{ctx.method} {path}"
        response: WerkzeugResponse = respond(ctx)
        return response

    def _find(self, environ: WSGIEnvironment) -> Any:
        """The endpoint and the parameters of a request."""
        path = environ.get("PATH_INFO")
        if path is not None and "HTTP_UPGRADE" not in environ:
            if not path.isascii():  # UTF-8 that was read as Latin-1 (PEP 3333)
                path = path.encode("latin-1").decode(errors="replace")
            try:
                return self._match(path, environ["REQUEST_METHOD"])
            except RequestRedirect:
                pass  # only the URL of a redirect depends on more than the path
        return self._rules.bind_to_environ(environ).match()


def create_router(prefix: str = "", *, middleware: Iterable[Middleware] = ()) -> Router:
    """A new Router."""
    return Router(prefix, middleware=middleware)
