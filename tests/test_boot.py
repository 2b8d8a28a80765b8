"""What a worker says when it boots, and of a source that keeps its loop from its turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import connect, eventually, serve

APP = """
import time
from gevent.monkey import get_original
from vento_wsgi import create_app, create_router

router = create_router()

@router.get("/blocks")
def blocks(ctx):
    yield b"first"
    computes()
    yield b"last"

def computes():
    get_original("time", "sleep")(1.2)  # as C code that gevent does not know

app = create_app()
app.use(router)
"""

CONFIG = ["-c", "python:vento_wsgi.server.config"]


def boot(server: str, folder: Path, *options: str, app: str = APP) -> str:
    (folder / "web.py").write_text(app)
    with serve(server, "web:app", cwd=folder, tmp=folder, options=options) as running:
        return running.log()


def test_a_worker_that_is_set_up_well_boots_without_a_warning(tmp_path: Path) -> None:
    assert "WARNING" not in boot("gunicorn-StreamWorker", tmp_path, *CONFIG)


@pytest.mark.parametrize(
    ("server", "options", "warning"),
    [
        ("gunicorn-sync", CONFIG, "a sync worker serves one stream at a time"),
        ("gunicorn-gthread", CONFIG, "each stream holds one of 8 threads"),
        (
            "gunicorn-StreamWorker",
            ["--timeout", "2"],
            "--timeout 2 ends workers that are only busy",
        ),
    ],
)
def test_a_setting_that_streams_suffer_from_is_one_warning_with_its_cure(
    tmp_path: Path, server: str, options: list[str], warning: str
) -> None:
    log = boot(server, tmp_path, *options)
    assert log.count(warning) == 1
    assert log.count("[WARNING]") == 1


@pytest.mark.parametrize("preload", [False, True])
def test_what_was_imported_before_gevent_patched_is_named_with_the_cure(
    tmp_path: Path, preload: bool
) -> None:
    (tmp_path / "early.py").write_text("from threading import Lock\nfrom time import sleep\n")
    (tmp_path / "conf.py").write_text("import sys\nsys.path.insert(0, '.')\nimport early\n")
    options = ["-c", "conf.py", *(["--preload"] if preload else [])]
    log = boot("gunicorn-StreamWorker", tmp_path, *options)
    (warning,) = [line for line in log.splitlines() if "[WARNING]" in line]
    assert "early.Lock, early.sleep" in warning
    assert "monkey.patch_all()" in warning
    assert ("preload_app" in warning) is preload


def test_a_lock_that_was_made_before_gevent_patched_is_named(tmp_path: Path) -> None:
    app = f"import threading\nlock = threading.Lock()\n{APP}"
    log = boot("gunicorn-StreamWorker", tmp_path, "--preload", app=app)
    (warning,) = [line for line in log.splitlines() if "[WARNING]" in line]
    assert "web.lock" in warning
    assert "preload_app" in warning


def test_a_source_that_blocks_the_loop_is_logged_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(APP)
    env = {"VENTO_BLOCK_LIMIT": "0.4"}
    with (
        serve("gunicorn-StreamWorker", "web:app", cwd=tmp_path, tmp=tmp_path, env=env) as running,
        connect(running) as raw,
    ):
        raw.request("GET", "/blocks")
        assert raw.read_all().data == b"firstlast"
        eventually(lambda: "the loop had no turn" in running.log(), explain=running.log)
        (line,) = [line for line in running.log().splitlines() if "the loop had no turn" in line]
    assert 'web.py", line 11, in blocks' in line
    assert 'web.py", line 15, in computes' in line
