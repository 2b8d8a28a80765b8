"""limit_streams: 503 beyond the limits, and a place free again when a stream ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from vento_wsgi import Context, Response, create_app, create_router
from vento_wsgi.middleware import limit_streams


def client(**limits: Any) -> Client:
    router = create_router()

    @router.get("/stream")
    def stream(_: Context) -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    @router.get("/text")
    def text(ctx: Context) -> Response:
        return ctx.text("text")

    @router.get("/fails")
    def fails(_: Context) -> Response:
        raise RuntimeError("before the headers")

    app = create_app()
    app.use(limit_streams(**limits))
    app.use(router)
    return Client(app)


def get(client: Client, path: str, address: str = "10.0.0.1") -> TestResponse:
    return client.get(path, environ_overrides={"REMOTE_ADDR": address}, buffered=False)


def test_a_stream_beyond_the_limit_of_the_worker_is_told_when_to_return() -> None:
    limited = client(per_worker=2, retry_after=7)
    with get(limited, "/stream", "10.0.0.1"), get(limited, "/stream", "10.0.0.2"):
        refused = get(limited, "/stream", "10.0.0.3")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "7"
        assert refused.content_type == "application/problem+json"


def test_a_client_has_its_own_limit() -> None:
    limited = client(per_client=1)
    with get(limited, "/stream", "10.0.0.1"):
        assert get(limited, "/stream", "10.0.0.1").status_code == 503
        with get(limited, "/stream", "10.0.0.2") as other:
            assert other.status_code == 200


@pytest.mark.parametrize("read", [True, False])
def test_a_stream_that_has_ended_leaves_its_place(read: bool) -> None:
    limited = client(per_worker=1)
    for _ in range(3):
        with get(limited, "/stream") as response:
            assert response.status_code == 200
            if read:
                assert response.data == b"onetwo"


@pytest.mark.parametrize(("path", "status"), [("/text", 200), ("/fails", 500), ("/gone", 404)])
def test_what_is_no_stream_keeps_no_place(path: str, status: int) -> None:
    limited = client(per_worker=1, per_client=1)
    for _ in range(3):
        with get(limited, path) as response:
            assert response.status_code == status
    with get(limited, "/stream") as response:
        assert response.status_code == 200


def test_a_head_request_keeps_no_place() -> None:
    limited = client(per_worker=1)
    for _ in range(3):
        with limited.head("/stream") as response:
            assert response.status_code == 200


@pytest.mark.parametrize("limits", [{}, {"per_worker": 0}, {"per_client": -1}])
def test_limits_that_limit_nothing_or_all_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"per_worker|per_client"):
        limit_streams(**limits)
