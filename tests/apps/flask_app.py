"""A Flask application as in Flask's manual, for the differential tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

from flask import Flask, Response, request, send_file, stream_with_context

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    return "Hello, World!"


@app.get("/stream")
def stream() -> Response:
    def numbers() -> Iterator[str]:
        for number in range(int(request.args["items"])):
            yield f"{request.args['word']} {number}\n"

    return Response(stream_with_context(numbers()), mimetype="text/plain")


@app.get("/file")
def file() -> Response:
    return send_file(os.environ["FILE"], mimetype="application/zip", last_modified=0, etag="same")


@app.post("/form")
def form() -> dict[str, object]:
    return {"form": request.form.to_dict(flat=False), "args": request.args}


@app.post("/upload")
def upload() -> str:
    return str(len(request.get_data()))


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("broken")


@app.get("/fail-later")
def fail_later() -> Response:
    def items() -> Iterator[str]:
        yield "an item\n"
        raise RuntimeError("broken")

    return Response(items(), mimetype="text/plain")


@app.get("/none")
def none() -> tuple[str, int]:
    return "", 204
