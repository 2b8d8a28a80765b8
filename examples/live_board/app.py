"""A board of cards that shows the same in every tab, whichever worker serves it.

From the root of the repository:

    vento-wsgi run --workers 4 examples.live_board.app:app
    python -m examples.live_board.publish "Hello from a script"

Open http://127.0.0.1:8000 twice. Kill a worker, or restart the server: no tab misses a change.
"""

from pathlib import Path
from typing import Any

from werkzeug.exceptions import BadRequest, NotFound

from vento_wsgi import Context, Response, create_app, create_router

from . import board

HERE = Path(__file__).parent

router = create_router()


@router.get("/changes")
def changes(ctx: Context) -> Response:
    """All changes to the board, after the last one that this tab has seen."""
    return ctx.sse(board.broker.subscribe(board.TOPIC, after=ctx.last_event_id))


@router.get("/cards")
def cards(ctx: Context) -> Response:
    return ctx.json(board.board())


@router.post("/cards")
def add(ctx: Context) -> Response:
    asked = fields(ctx)
    text = asked.get("text")
    if not isinstance(text, str) or not 0 < len(text := text.strip()) <= board.LONGEST_TEXT:
        raise BadRequest(f"text must have 1 to {board.LONGEST_TEXT} characters.")
    return ctx.json(board.add(text, column(asked)), 201)


@router.put("/cards/<int:id>")
def move(ctx: Context) -> Response:
    return changed(ctx, column(fields(ctx)))


@router.delete("/cards/<int:id>")
def remove(ctx: Context) -> Response:
    return changed(ctx, None)


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.file("index.html", root=HERE)


@router.get("/assets/<name>")
def asset(ctx: Context) -> Response:
    return ctx.file(ctx.params["name"], root=HERE / "assets")


def changed(ctx: Context, column: str | None) -> Response:
    try:
        return ctx.json(board.move(ctx.params["id"], column))
    except LookupError as error:
        raise NotFound(f"{error}.") from error


def fields(ctx: Context) -> dict[str, Any]:
    asked = ctx.request.json()
    if not isinstance(asked, dict):
        raise BadRequest("The body must be an object.")
    return asked


def column(asked: dict[str, Any]) -> str:
    if asked.get("column") not in board.COLUMNS:
        raise BadRequest(f"column must be one of {', '.join(board.COLUMNS)}.")
    return str(asked["column"])


app = create_app()
app.use(router)
