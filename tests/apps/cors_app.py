"""A page, and responses that pages from the origin $ALLOWED may read."""

import os
from collections.abc import Iterator

from vento_wsgi import Context, Event, Response, create_app, create_router
from vento_wsgi.middleware import cors

router = create_router()


@router.get("/")
@router.get("/page")
def page(ctx: Context) -> Response:
    return ctx.html("<!doctype html><title>page</title>")


@router.get("/login")
def login(ctx: Context) -> Response:
    response = ctx.html("<!doctype html><title>login</title>")
    response.set_cookie("user", "ada")
    return response


@router.get("/events")
def events(ctx: Context) -> Response:
    def user() -> Iterator[Event]:
        yield Event(ctx.request.cookies.get("user", ""))

    return ctx.sse(user())


@router.get("/cookie")
def cookie(ctx: Context) -> Response:
    return ctx.text(ctx.request.cookies.get("user", ""))


@router.put("/put")
def put(ctx: Context) -> Response:
    return ctx.text(ctx.headers.get("X-Token", ""), headers={"X-Seen": ctx.method})


@router.delete("/put")
def delete(ctx: Context) -> Response:
    return ctx.text("deleted")


@router.get("/fails")
def fails(_: Context) -> Response:
    raise RuntimeError("as it should")


app = create_app()
app.use(
    cors(
        os.environ.get("ALLOWED", "https://nobody.example"),
        credentials=True,
        methods=["PUT"],
        headers=["X-Token"],
        expose=["X-Seen"],
    )
)
app.use(router)
