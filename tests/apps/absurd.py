"""An application that reads every part of a request."""

from typing import Any

from werkzeug.exceptions import HTTPException

from vento_wsgi import Context, Request, Response, create_app, create_router

router = create_router()


@router.get("/int/<int:number>")
def number(ctx: Context) -> Response:
    return ctx.text(str(ctx.params["number"])[:20])


@router.get("/float/<float:number>")
def fraction(ctx: Context) -> Response:
    return ctx.text(str(ctx.params["number"]))


@router.get("/file")
def this_file(ctx: Context) -> Response:
    return ctx.file(__file__)


@router.get("/<path:anything>")
def any_path(ctx: Context) -> Response:
    return ctx.text(ctx.path)


@router.route("/", methods=["GET", "POST", "PUT"])
def everything(ctx: Context) -> Response:
    """Read every part of a request, each by itself: one faulty part must not hide the others."""
    names = [name for name in dir(Request) if not name.startswith("_")]
    refused = {name: refusal(ctx.request, name) for name in names}
    for name in ("last_event_id", "path", "query", "url"):
        refused[f"ctx.{name}"] = refusal(ctx, name)
    assert all(code is None or 400 <= code < 500 for code in refused.values()), refused
    return ctx.json(refused)


def refusal(item: Any, name: str) -> int | None:
    """The status with which a part of a request is refused; None if it is accepted."""
    try:
        value = getattr(item, name, None)
        if name == "chunks":
            list(value())  # type: ignore[misc]
        elif name in ("form", "json", "text"):
            value()  # type: ignore[misc]
    except HTTPException as error:
        return error.code
    return None


app = create_app()
app.use(router)
