"""The Flask adapter without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import flask
import pytest
from support.servers import OPENING

from vento_wsgi import BodyError, Broker, StreamAborted, decode
from vento_wsgi.contrib.flask import file, last_event_id, sse, stream
from vento_wsgi.streaming.endings import FAILED


class Own(flask.Response):
    pass


def make(view: Any, response_class: Any = flask.Response) -> flask.Flask:
    app = flask.Flask(__name__)
    app.response_class = response_class
    app.add_url_rule("/", view_func=view, endpoint="view", methods=["GET", "POST"])
    return app


@pytest.mark.parametrize("response_class", [flask.Response, Own])
@pytest.mark.parametrize(
    "make_response",
    [
        lambda: stream(iter(["a"])),
        lambda: sse(["a"]),
        lambda: file(__file__),
        lambda: sse(Broker("memory://").subscribe("a")),
    ],
    ids=["stream", "sse", "file", "subscription"],
)
def test_what_is_returned_is_a_response_of_the_application(
    make_response: Any, response_class: Any
) -> None:
    seen: list[Any] = []

    def view() -> Any:
        seen.append(make_response())
        return seen[0]

    app = make(view, response_class)

    @app.after_request
    def after(response: Any) -> Any:
        assert response is seen[0]
        response.headers["X-After"] = "yes"
        return response

    with app.test_client().get("/", buffered=False) as response:
        assert response.headers["X-After"] == "yes"
    assert type(seen[0]).__mro__.index(response_class) > 0
    assert isinstance(seen[0], response_class)


def test_the_generator_is_not_begun_by_head_and_is_closed_all_the_same() -> None:
    class Source:
        closed = begun = 0

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> str:
            self.begun += 1
            raise StopIteration

        def close(self) -> None:
            self.closed += 1

    source = Source()
    app = make(lambda: stream(source))
    app.test_client().head("/").close()
    assert (source.begun, source.closed) == (0, 1)
    assert app.test_client().get("/").data == b""
    assert (source.begun, source.closed) == (1, 2)


def test_an_iterable_has_the_context_as_well_and_is_closed() -> None:
    class Lines:
        closed = 0

        def __iter__(self) -> Iterator[str]:
            yield flask.request.path

        def close(self) -> None:
            self.closed += 1

    lines = Lines()
    assert make(lambda: stream(lines, "text/plain")).test_client().get("/").text == "/"
    assert lines.closed == 1


def test_a_generator_may_read_the_request() -> None:
    def view() -> Any:
        return stream((f"{flask.request.data.decode()} {n} " for n in range(2)), "text/plain")

    with make(view).test_client() as client:
        assert client.post("/", data="body").text == "body 0 body 1 "


def test_options_headers_and_status_are_taken() -> None:
    endings: list[Any] = []

    def view() -> Any:
        return stream(
            iter(["a"]),
            "text/a",
            status=202,
            headers={"X-A": "b", "Connection": "close"},
            on_end=endings.append,
        )

    response = make(view).test_client().get("/")
    assert (response.status_code, response.data) == (202, b"a")
    assert response.headers["X-A"] == "b"
    assert "Connection" not in response.headers
    assert [ending.reason for ending in endings] == ["exhausted"]


def test_a_body_that_is_none_is_refused_by_name() -> None:
    app = make(lambda: stream({"a": 1}))
    app.testing = True
    with pytest.raises(BodyError, match="a body cannot be dict: use"):
        app.test_client().get("/")


def test_an_id_that_no_server_has_sent_is_a_400() -> None:
    app = make(lambda: sse([last_event_id()]))
    assert app.test_client().get("/", headers={"Last-Event-ID": "a" * 2000}).status_code == 400
    found = app.test_client().get("/?lastEventId=8")
    assert [event.data for event in decode([found.data]) if event.data] == ["8"]


def test_a_failure_is_an_error_event() -> None:
    def view() -> Any:
        def fails() -> Iterator[str]:
            yield "one"
            raise RuntimeError("broken")

        return sse(fails())

    got = []
    with make(view).test_client().get("/", buffered=False) as response:
        chunks = response.iter_encoded()
        with suppress(StreamAborted):
            while True:
                got.append(next(chunks))
    assert b"".join(got) == OPENING + b"data: one\n\n" + FAILED
