"""What a client receives when a stream, a deadline or middleware fails, on real workers."""

import json
from typing import Any

import pytest
from support.fixtures import served
from support.servers import STOCK, STREAM_WORKER, Running, connect, eventually, is_reset

on_stream_worker = pytest.mark.parametrize("server", [STREAM_WORKER], indirect=True)


server = served("apps.failing:app", STREAM_WORKER, STOCK)


def told(server: Running) -> Any:
    return json.loads(answer(server, "/")[2])


def answer(server: Running, path: str) -> tuple[int, str, bytes]:
    with connect(server) as raw:
        head = raw.request("GET", path)
        return head.status, head.headers.get("Content-Type", ""), raw.read_all().data


@on_stream_worker
def test_a_stream_that_fails_before_anything_was_sent_is_an_error_of_its_own(
    server: Running,
) -> None:
    """A client that has no byte of an answer asks again, and proxies ask another server."""
    before = told(server)["fails"]
    status, kind, body = answer(server, "/fails")
    assert (status, kind) == (500, "application/problem+json")
    assert json.loads(body)["status"] == 500
    assert told(server)["fails"] == before + 1
    assert server.log().count("GET /fails failed in mid-stream") == before + 1


@on_stream_worker
def test_a_body_that_breaks_off_looks_whole_to_no_client_of_http_1_0(server: Running) -> None:
    for path, whole in (("/short", True), ("/fails-later", False)):
        with connect(server) as raw:
            raw.sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert is_reset(raw) is not whole


def test_a_deadline_ends_a_stream_whose_client_does_not_read(server: Running) -> None:
    before = len(told(server)["endings"])
    with connect(server) as raw:
        raw.ask("GET", "/deadline")
        eventually(lambda: len(told(server)["endings"]) > before)
    assert told(server)["endings"][before:] == ["deadline"]


@pytest.mark.parametrize("path", ["/finishers", "/timeout"])
def test_whatever_fails_before_the_headers_is_a_problem(server: Running, path: str) -> None:
    status, kind, body = answer(server, path)
    assert (status, kind) == (500, "application/problem+json")
    assert json.loads(body)["title"] == "Internal Server Error"


@pytest.mark.parametrize(
    ("how", "wanted"), [("raise", 500), ("replace", b"other"), ("wrap", b"AB"), ("", b"ab")]
)
def test_a_response_that_middleware_drops_is_closed(
    server: Running, how: str, wanted: int | bytes
) -> None:
    closed = told(server)["closed"]
    for n in range(3):  # the limit is of one: each makes room for the next
        status, _, body = answer(server, f"/limited?how={how}")
        assert wanted in (status, body), body
        eventually(lambda n=n: told(server)["closed"] == closed + n + 1)  # type: ignore[misc]
