"""Flask, as its documentation ("Streaming Contents") advises."""

from bench.apps import work
from flask import Flask, Response, send_file

app = Flask(__name__)


@app.get("/hello")
def hello() -> str:
    return work.HELLO


@app.get("/two")
def two() -> Response:
    return Response(work.two(), mimetype="text/plain")


@app.get("/tokens")
def tokens() -> Response:
    return Response(work.tokens(), mimetype="text/event-stream")


@app.get("/live")
def live() -> Response:
    return Response(work.ticks(work.LIVE_PERIOD), mimetype="text/event-stream")


@app.get("/file")
def file() -> Response:
    return send_file(work.FILE, mimetype="application/octet-stream")
