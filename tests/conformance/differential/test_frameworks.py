"""Flask and Django, unmodified, on both workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from apps.legacy import content
from conformance.differential.answers import Seen, seen
from conformance.differential.cases import ask, chunked
from conformance.differential.workers import OURS, on_both
from support.servers import STOCK, Running, connect, serve

ZIP = content(0, 200_000)


@contextmanager
def framework(server: str, target: str, tmp: Path) -> Iterator[Running]:
    file = tmp / "large-file.zip"
    file.write_bytes(ZIP)
    options = ["--no-control-socket", "--keep-alive=20"]
    with serve(server, target, tmp=tmp, env={"FILE": str(file)}, options=options) as running:
        yield running


LATER = b"an item\n"
FRAMEWORK: list[tuple[bytes, int, bytes]] = [
    (ask("GET", "/"), 200, b"Hello, World!"),
    (ask("HEAD", "/"), 200, b""),
    (ask("GET", "/stream?items=3&word=a"), 200, b"a 0\na 1\na 2\n"),
    (ask("GET", "/stream?items=0&word=a"), 200, b""),
    (ask("HEAD", "/stream?items=3&word=a"), 200, b""),
    (ask("GET", "/file"), 200, ZIP),
    (ask("HEAD", "/file"), 200, b""),
    (
        ask(
            *("POST", "/form?b=2", "Content-Length: 7"),
            *("Content-Type: application/x-www-form-urlencoded",),
            body=b"a=1&a=2",
        ),
        200,
        b'{"args":{"b":"2"},"form":{"a":["1","2"]}}',
    ),
    (ask("POST", "/upload", "Content-Length: 100000", body=b"x" * 100_000), 200, b"100000"),
    (
        ask("POST", "/upload", "Transfer-Encoding: chunked", body=chunked(b"x" * 70_000, b"y")),
        *(200, b""),  # Django takes it for an empty one
    ),
    (ask("GET", "/nowhere"), 404, b"Not Found"),
    (ask("GET", "/fail"), 500, b"Server Error"),
    (ask("GET", "/none"), 204, b""),
    (ask("GET", "/", version="1.0"), 200, b"Hello, World!"),
    (ask("GET", "/stream?items=3&word=a", version="1.0"), 200, b"a 0\na 1\na 2\n"),
    (ask("GET", "/fail-later"), 200, LATER),
]


@pytest.mark.parametrize("target", ["apps.flask_app:app", "apps.django_app:app"])
def test_frameworks_run_unmodified_and_do_the_same(target: str, tmp_path: Path) -> None:
    def shown(name: str) -> list[Seen]:
        (tmp_path / name).mkdir()
        with framework(name, target, tmp_path / name) as running:
            return [shows(running, *row) for row in FRAMEWORK]

    def shows(running: Running, data: bytes, status: int, body: bytes) -> Seen:
        with connect(running) as raw:
            raw.send(data + ask("GET", "/", "Connection: close"))
            show = seen(raw.read_rest(), [data.partition(b" ")[0].decode()])
        answer = show.answers[0]
        assert answer.status.split(" ")[1] == str(status)
        assert body in answer.body
        assert answer.complete == (body != LATER)
        return show

    stock, ours = on_both(shown, (STOCK, OURS))
    assert ours == stock
