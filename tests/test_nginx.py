"""The README's nginx settings, with a real nginx before a real gunicorn."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
from servers import HERE, ROOT, Running, connect, eventually, free_port, serve
from test_servers import Gate, take, target

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

AROUND = """\
daemon off;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if NGINX is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("nginx is not installed")
    tmp = tmp_path_factory.mktemp("nginx")
    tmp.chmod(0o755)
    (block,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with serve("gunicorn-StreamWorker", "matrix:app", cwd=HERE / "apps", tmp=tmp) as behind:
        port = free_port()
        block = block.replace("127.0.0.1:8000", f"127.0.0.1:{behind.port}")
        block = block.replace("listen 80;", f"listen 127.0.0.1:{port};")
        (tmp / "nginx.conf").write_text(AROUND.format(folder=tmp, block=block))
        command = [NGINX, "-c", str(tmp / "nginx.conf"), "-p", str(tmp), "-e", f"{tmp}/error.log"]
        with subprocess.Popen(command) as nginx:
            try:
                eventually(lambda: accepts(port), 10, behind.log)
                yield replace(behind, port=port)
            finally:
                nginx.terminate()


PIECES = {
    "/chunks": (b"", b"chunk %d\n"),
    "/events": (b":\n\n", b"id: %d\ndata: %d\n\n"),
}


@pytest.mark.parametrize("path", PIECES)
def test_chunks_come_through_nginx_one_by_one(running: Running, path: str) -> None:
    opening, piece = PIECES[path]
    with Gate() as gate, connect(running) as raw:
        raw.ask("GET", target(path, gate))
        assert gate.wanted()
        assert raw.read_head().status == 200
        take(raw, opening)
        for number in (1, 2, 3):
            gate.next()
            take(raw, piece.replace(b"%d", b"%d" % number))
            assert gate.wanted()
        gate.end()
        assert raw.read_all().complete


def test_a_client_that_leaves_nginx_ends_the_generator(running: Running) -> None:
    with Gate() as gate, connect(running) as raw:
        raw.ask("GET", target("/chunks", gate))
        assert gate.wanted()
        raw.close()
        assert not gate.wanted()
