"""The README's nginx settings, with a real nginx before a real gunicorn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.gates import Gate
from support.proxies import proxy
from support.servers import ROOT, Running, connect, free_port, serve, take, target


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("nginx")
    (block,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with serve("gunicorn-StreamWorker", "apps.matrix:app", tmp=tmp) as behind:
        port = free_port()
        block = block.replace("127.0.0.1:8000", f"127.0.0.1:{behind.port}")
        block = block.replace("listen 80;", f"listen 127.0.0.1:{port};")
        with proxy("nginx", block, tmp, port):
            yield replace(behind, port=port)


PIECES = {
    "/chunks": (b"", b"chunk %d\n"),
    "/events": (b":\nretry: 3000\n", b"id: %d\ndata: %d\n\n"),
}


@pytest.mark.parametrize("path", PIECES)
def test_chunks_come_through_nginx_one_by_one(running: Running, gate: Gate, path: str) -> None:
    opening, piece = PIECES[path]
    with connect(running) as raw:
        raw.ask("GET", target(path, gate=gate.port))
        assert gate.wanted()
        assert raw.read_head().status == 200
        take(raw, opening)
        for number in (1, 2, 3):
            gate.next()
            take(raw, piece.replace(b"%d", b"%d" % number))
            assert gate.wanted()
        gate.end()
        assert raw.read_all().complete


def test_a_client_that_leaves_nginx_ends_the_generator(running: Running, gate: Gate) -> None:
    with connect(running) as raw:
        raw.ask("GET", target("/chunks", gate=gate.port))
        assert gate.wanted()
        raw.close()
        assert not gate.wanted()
