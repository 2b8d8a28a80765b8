"""limit_streams: 503 beyond the limits, and a place free again when a stream ends."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from werkzeug.middleware.proxy_fix import ProxyFix
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


# Who is one client.


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ("2001:db8::1", "2001:db8::2:0:0:1", True),
        ("2001:db8::1", "2001:DB8:0:0:ffff::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:198.51.100.1", "198.51.100.1", True),
        ("::ffff:198.51.100.1", "::ffff:198.51.100.2", False),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("no address: a name", "no address: another", False),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(first: str, second: str, one: bool) -> None:
    limited = client(per_client=1)
    with get(limited, "/stream", first), get(limited, "/stream", second) as other:
        assert (other.status_code == 503) == one


def test_clients_without_an_address_are_not_taken_for_one(caplog: Any) -> None:
    limited = client(per_client=1, per_worker=3)
    with get(limited, "/stream", ""), get(limited, "/stream", "") as second:
        assert second.status_code == 200
        with get(limited, "/stream", ""):
            assert get(limited, "/stream", "").status_code == 503, "per_worker holds"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no address" in caplog.text
    assert "ProxyFix" in caplog.text


@pytest.mark.parametrize(
    ("address", "sent", "warns"),
    [
        ("127.0.0.1", {"X-Forwarded-For": "198.51.100.1"}, True),
        ("::1", {"X-Forwarded-For": "198.51.100.1"}, True),
        ("10.0.0.2", {"X-Forwarded-For": "198.51.100.1, 10.0.0.1"}, True),
        ("::ffff:10.0.0.2", {"Forwarded": "for=198.51.100.1;proto=https"}, True),
        ("fd00::2", {"Forwarded": 'for="[2001:db8::1]"'}, True),
        ("127.0.0.1", {}, False),
        ("10.0.0.2", {"X-Forwarded-For": "10.0.0.2"}, False),  # as ProxyFix leaves it
        ("1.1.1.1", {"X-Forwarded-For": "198.51.100.1"}, False),
    ],
)
def test_a_proxy_whose_users_count_as_one_is_told_of_once(
    address: str, sent: dict[str, str], warns: bool, caplog: Any
) -> None:
    limited = client(per_client=1)
    overrides = {"REMOTE_ADDR": address}
    with limited.get("/stream", headers=sent, environ_overrides=overrides, buffered=False):
        assert not caplog.records
        for _ in range(3):
            refused = limited.get("/stream", headers=sent, environ_overrides=overrides)
            assert refused.status_code == 503
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == warns
    assert all("seems to be a proxy" in line and "ProxyFix" in line for line in told)


def test_with_proxy_fix_each_user_of_a_proxy_is_a_client(caplog: Any) -> None:
    limited = client(per_client=1)
    limited.application = ProxyFix(limited.application, x_for=1)
    for user in ("198.51.100.1", "10.0.0.7"):
        sent = {"X-Forwarded-For": user}
        with limited.get("/stream", headers=sent, buffered=False) as response:
            assert response.status_code == 200
            assert limited.get("/stream", headers=sent).status_code == 503
    assert not caplog.records


def test_with_too_few_proxies_in_x_for_it_says_what_x_for_is(caplog: Any) -> None:
    limited = client(per_client=1)
    limited.application = ProxyFix(limited.application, x_for=1)
    sent = {"X-Forwarded-For": "198.51.100.1, 10.0.0.2"}
    with limited.get("/stream", headers=sent, buffered=False):
        assert limited.get("/stream", headers=sent).status_code == 503
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("its x_for is the number of proxies.")


# In threads.


THREADS = 8


def in_threads(work: Callable[[], None]) -> None:
    """Run it in several threads, each of which stops at every line of the middleware."""

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        if "limit_streams" in frame.f_code.co_filename:
            time.sleep(0)
            return trace
        return None

    def run() -> None:
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(run) for _ in range(THREADS)]:
            done.result()


@pytest.mark.parametrize("limits", [{"per_worker": 3}, {"per_client": 3}])
def test_threads_that_come_at_once_are_no_more_than_the_limit(limits: dict[str, int]) -> None:
    for _ in range(20):
        limited = client(**limits)
        opened: list[TestResponse] = []
        start = threading.Barrier(THREADS)

        def come(limited: Client = limited, opened: Any = opened, start: Any = start) -> None:
            start.wait()
            opened.append(get(limited, "/stream"))

        in_threads(come)
        statuses = sorted(response.status_code for response in opened)
        assert statuses == [200] * 3 + [503] * (THREADS - 3)
        for response in opened:
            response.close()


@pytest.mark.parametrize("limits", [{"per_worker": 2}, {"per_client": 2}])
def test_threads_that_come_and_go_are_counted(limits: dict[str, int]) -> None:
    limited = client(**limits)
    here: list[int] = []
    counts: list[int] = []

    def come_and_go() -> None:
        for _ in range(50):
            with get(limited, "/stream") as response:
                if response.status_code == 200:
                    here.append(1)
                    counts.append(len(here))
                    here.pop()

    in_threads(come_and_go)
    assert max(counts) <= 2
    with get(limited, "/stream"), get(limited, "/stream"):
        assert get(limited, "/stream").status_code == 503


def test_it_makes_no_lock_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = threading.Lock

    def lock() -> Any:
        made.append(sys._getframe(1).f_code.co_filename)
        return real()

    monkeypatch.setattr(threading, "Lock", lock)
    limited = client(per_worker=1)
    assert not [name for name in made if "limit_streams" in str(name)]
    get(limited, "/stream").close()
    assert len([name for name in made if "limit_streams" in str(name)]) == 1
