"""Flask with Flask-SSE, as its documentation ("Quickstart") advises."""

import os

from flask import Flask, request
from flask_sse import sse  # type: ignore[import-not-found,import-untyped,unused-ignore]

app = Flask(__name__)
app.config["REDIS_URL"] = os.environ["BENCH_BROKER"]
app.register_blueprint(sse, url_prefix="/events")


@app.post("/publish")
def publish() -> tuple[str, int]:
    sse.publish({"message": request.get_data(as_text=True)})
    return "", 204
