"""A camera: each POST sends a picture of the width that it names; 0 ends the stream."""

import struct
import zlib
from collections.abc import Iterator
from queue import Queue

from vento_wsgi import Context, Response, create_app, create_router
from vento_wsgi.formats import multipart_mixed

router = create_router()
shown: Queue[int] = Queue()
watching: list[Context] = []


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(width: int) -> bytes:
    """A grey PNG of this width in pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" + b"\x80" * width))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


@router.get("/")
def home(ctx: Context) -> Response:
    return ctx.html("<!doctype html><title>camera</title><body>")


@router.get("/frames")
def frames(ctx: Context) -> Response:
    def pictures() -> Iterator[bytes]:
        while width := shown.get():
            yield picture(width)

    body = multipart_mixed(pictures(), part_type="image/png", replace=True)
    watching.append(ctx)
    return ctx.stream(body, body.content_type, on_end=lambda _: watching.clear())


@router.get("/open")
def count(ctx: Context) -> Response:
    return ctx.text(str(len(watching)))


@router.post("/show/<int:width>")
def show(ctx: Context) -> Response:
    shown.put(ctx.params["width"])
    return ctx.text("shown")


app = create_app()
app.use(router)
