"""App: the WSGI callable, its middleware, and its errors.

A request goes through the application's middleware, the router, the route's middleware and the
handler, which returns a response; the response answers the server. An exception goes back
through the middleware, any of which may turn it into a response. If none does, it becomes
application/problem+json (RFC 9457) here. An unexpected exception is logged, and the client is
told nothing of it unless `debug` is on.
"""

from __future__ import annotations

import html
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from werkzeug.datastructures import Headers, MIMEAccept
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.http import parse_accept_header
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Response as WerkzeugResponse

from .context import Context
from .exceptions import RouteError, StreamAborted
from .logs import logger
from .response import Response
from .routing import Dispatcher, Middleware, Route, Router, chain, check_callable
from .streaming.environ import fields

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["App", "create_app"]

log = logger(__name__)

MAX_CONTENT_LENGTH = 16 * 1024 * 1024
"""Bytes of a request body by default: room for JSON and forms, but not to fill a disk with."""

MAX_REPORT = 64 * 1024
"""Characters of an error that `debug` shows: its message may contain a whole body."""

U = TypeVar("U", bound="Router | Middleware")


class App:
    """A WSGI application made of routers, middleware and other WSGI applications.

    debug: describe unexpected errors to the client; a browser gets HTML with the traceback.
    max_content_length: bytes of a request body above which reading it is a 413; None for no
        limit. A handler may set ``ctx.request.max_content_length`` before it reads.
    """

    def __init__(
        self, *, debug: bool = False, max_content_length: int | None = MAX_CONTENT_LENGTH
    ) -> None:
        self.debug = debug
        self.max_content_length = max_content_length
        self._layers: list[Middleware] = []
        self._routers: list[Router] = []
        self._mounts: dict[str, WSGIApplication] = {}
        self._handle: Callable[[Context], WerkzeugResponse]
        self._wsgi: WSGIApplication | None = None  # made at the first request

    def use(self, item: U) -> U:
        """Add a router, or a middleware ``(ctx, next) -> Response``; the first is outermost.

        Middleware runs also when no route matches, but not for mounted applications.
        Raises RouteError.
        """
        self._open()
        if isinstance(item, Router):
            self._routers.append(item)
        elif isinstance(item, App):
            raise RouteError("an application is mounted: app.mount('/path', other)")
        else:
            check_callable(item, "a middleware", 2)
            self._layers.append(item)
        return item

    def mount(self, prefix: str, wsgi_app: WSGIApplication) -> None:
        """Give all paths below `prefix` to a WSGI application, whose SCRIPT_NAME ends in it."""
        self._open()
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise RouteError(f"a mount is below a path like '/old', not {prefix!r}")
        if prefix in self._mounts:
            raise RouteError(f"{prefix!r} is mounted already")
        if not callable(wsgi_app):
            raise RouteError(f"a mount takes a WSGI application, not {wsgi_app!r}")
        self._mounts[prefix] = wsgi_app

    def routes(self) -> Iterator[Route]:
        """Every route of every router."""
        for router in self._routers:
            yield from router.routes()

    def mounts(self) -> dict[str, WSGIApplication]:
        """The mounted applications by their prefix."""
        return dict(self._mounts)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        wsgi = self._wsgi
        if wsgi is None:
            wsgi = self._wsgi = self._build()
        return wsgi(environ, start_response)

    def run(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        workers: int = 1,
        reload: bool = False,
    ) -> NoReturn:
        """Serve this application as ``vento-wsgi run`` does, in place of the running script.

        The process is replaced, so that gevent can patch it before the script is imported. Call
        this last, under ``if __name__ == "__main__":``. Raises RuntimeError unless the
        application is bound to a name of the script.
        """
        main = sys.modules["__main__"]
        name = next((name for name, value in vars(main).items() if value is self), None)
        file = getattr(main, "__file__", None)
        if name is None or file is None:
            raise RuntimeError(
                "app.run() serves an application that is bound to a name of the script itself; "
                'call it under if __name__ == "__main__":, or use vento-wsgi run module:app'
            )
        spec = getattr(main, "__spec__", None)
        module, folder = (
            (spec.name, Path.cwd()) if spec else (Path(file).stem, Path(file).resolve().parent)
        )
        sys.stdout.flush()
        sys.stderr.flush()
        command = [sys.executable, "-m", "vento_wsgi", "run", f"{module}:{name}"]
        options = ["--app-dir", str(folder), "--host", host, "--port", str(port)]
        options += ["--workers", str(workers), *(["--reload"] if reload else [])]
        os.execv(sys.executable, command + options)

    def _open(self) -> None:
        if self._wsgi is not None:
            raise RouteError("the application serves already: set it up before the first request")

    def _build(self) -> WSGIApplication:
        self._handle = chain(self._layers, Dispatcher(self.routes()).respond)
        for router in self._routers:
            router.seal()
        if not self._mounts:
            return self._respond
        # PATH_INFO is UTF-8 that was read as Latin-1 (PEP 3333)
        mounts = {prefix.encode().decode("latin-1"): app for prefix, app in self._mounts.items()}
        return DispatcherMiddleware(self._respond, mounts)

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        ctx = Context(environ, self.max_content_length)
        try:
            response = self._handle(ctx)
        except BaseException as error:
            if not _is_failure(error):
                raise
            response = self._answer(ctx, error)
        if "request" in ctx.__dict__:
            if isinstance(response, Response):
                response.answers = ctx.request
            else:
                response.call_on_close(ctx.request.close)
        try:
            if ctx.finishers:
                _finish(ctx, response)
            return response(environ, start_response)
        except StreamAborted:
            raise
        except Exception as error:
            failure = sys.exc_info()

            def restart(status: str, headers: list[tuple[str, str]], _: Any = None, /) -> Any:
                return start_response(status, headers, failure)

            answer = self._answer(ctx, error)
            try:
                _finish(ctx, answer)
            except Exception:
                known = fields(environ)
                log.exception("%s: on_response failed", known["route"], extra=known)
                answer = self._answer(ctx, error)
            return answer(environ, restart)

    def _answer(self, ctx: Context, error: BaseException) -> WerkzeugResponse:
        try:
            return self._described(ctx, error)
        except Exception:  # the exception's own __str__ or get_headers failed
            known = fields(ctx.environ)
            log.exception("%s: its error cannot be described", known["route"], extra=known)
            return self._described(ctx, InternalServerError(""))

    def _described(self, ctx: Context, error: BaseException) -> WerkzeugResponse:
        if isinstance(error, HTTPException) and error.response is not None:
            return error.get_response(ctx.environ)
        if isinstance(error, HTTPException) and error.code is not None:
            problem, detail = error, error.description
            if error.code < 400:
                return error.get_response(ctx.environ)
        else:
            known = fields(ctx.environ)
            log.error("%s failed", known["route"], exc_info=error, extra=known)
            problem, detail = InternalServerError(), None
        headers = Headers(problem.get_headers(ctx.environ))
        if self.debug:
            if _prefers_html(ctx):
                headers["Content-Type"] = "text/html; charset=utf-8"
                return Response(_page(problem, error), problem.code or 500, headers)
            detail = detail or _cut("".join(traceback.format_exception_only(error)).strip())
        body = {"type": "about:blank", "title": problem.name, "status": problem.code}
        if detail:
            body["detail"] = str(detail)  # a description may be a lazy translation
        headers["Content-Type"] = "application/problem+json"
        return Response(json.dumps(body), problem.code or 500, headers)


def create_app(*, debug: bool = False, max_content_length: int | None = MAX_CONTENT_LENGTH) -> App:
    """A new App."""
    return App(debug=debug, max_content_length=max_content_length)


def _is_failure(error: BaseException) -> bool:
    """Whether it gets an answer. gevent.Timeout does, though it is not an Exception."""
    return isinstance(error, Exception) or type(error).__module__ == "gevent.timeout"


def _finish(ctx: Context, response: WerkzeugResponse) -> None:
    try:
        for finish in ctx.finishers:
            finish(response)
    except BaseException:
        response.close()
        raise


def _prefers_html(ctx: Context) -> bool:
    accept = parse_accept_header(ctx.environ.get("HTTP_ACCEPT"), MIMEAccept)
    best = accept.best_match(["application/problem+json", "text/html"])
    return best == "text/html"


def _page(problem: HTTPException, error: BaseException) -> bytes:
    title = html.escape(f"{problem.code} {problem.name}")
    report = str(problem.description or "")
    if problem is not error:
        report = "".join(traceback.format_exception(error))
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{title}</title><h1>{title}</h1><pre>{html.escape(_cut(report))}</pre></html>"
    )
    return page.encode(errors="backslashreplace")  # lone surrogates cannot be UTF-8


def _cut(report: str) -> str:
    """A report without its middle if it is too long: both ends say where it failed."""
    half = MAX_REPORT // 2
    return report if len(report) <= MAX_REPORT else f"{report[:half]}\n[…]\n{report[-half:]}"
