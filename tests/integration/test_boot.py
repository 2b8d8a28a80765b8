"""What a worker logs when it boots, and when a source blocks its loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers import connect, eventually, serve

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


EARLY = {
    "early.py": "from threading import Lock\nlock, own = Lock(), Lock",
    "conf.py": "import sys\nsys.path.insert(0, '.')\nimport early\n",
}


def test_the_advice_of_the_warning_cures_it(tmp_path: Path) -> None:
    for name, content in EARLY.items():
        patch = "from gevent import monkey\nmonkey.patch_all()\n" if name == "conf.py" else ""
        (tmp_path / name).write_text(patch + content)
    for options in ([], ["--preload"]):
        assert "WARNING" not in boot("gunicorn-StreamWorker", tmp_path, "-c", "conf.py", *options)


def test_originals_that_a_module_has_asked_gevent_for_are_not_named(tmp_path: Path) -> None:
    for name, content in EARLY.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "early.py").write_text(
        "from gevent import monkey\n"
        "from gevent.monkey import get_original\n"
        "from threading import Lock\n"
        "native_sleep = get_original('time', 'sleep')\n"
        "native_event = monkey.get_original('threading', 'Event')\n"
    )
    log = boot("gunicorn-StreamWorker", tmp_path, "-c", "conf.py")
    (warning,) = [line for line in log.splitlines() if "[WARNING]" in line]
    assert "standard library: early.Lock; start" in warning


def test_what_was_imported_before_gunicorn_is_not_named(tmp_path: Path) -> None:
    """As by agents that start gunicorn: no setting of gunicorn's would come before them."""
    for name, content in EARLY.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "sitecustomize.py").write_text("import early\n")
    assert "WARNING" not in boot("gunicorn-StreamWorker", tmp_path, "-c", "conf.py")


def test_what_does_not_block_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(EARLY["conf.py"])
    (tmp_path / "early.py").write_text(
        "from threading import get_ident\nfrom os import close\nfrom subprocess import PIPE\n"
        "from subprocess import CompletedProcess\nfrom signal import signal\n"
    )
    assert "WARNING" not in boot("gunicorn-StreamWorker", tmp_path, "-c", "conf.py")


def test_a_warning_names_ten_at_most(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(EARLY["conf.py"])
    locks = "".join(f"lock{number} = Lock()\n" for number in range(30))
    (tmp_path / "early.py").write_text(f"from threading import Lock\n{locks}")
    log = boot("gunicorn-StreamWorker", tmp_path, "-c", "conf.py")
    assert " and 21 more; start gunicorn's settings file" in log


SENTRY = """
import sentry_sdk
sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0)
"""


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ("", []),
        (f"from gevent import monkey\nmonkey.patch_all()\n{SENTRY}", []),
        (f"from gevent import monkey\nmonkey.patch_all()\n{SENTRY}", ["--preload"]),
    ],
    ids=["worker", "settings", "preload"],
)
def test_sentry_keeps_what_it_needs_without_a_warning(
    tmp_path: Path, settings: str, options: list[str]
) -> None:
    (tmp_path / "conf.py").write_text(settings)
    # its integrations look at what is installed, and a Django without settings fails
    app = f"import os\nos.environ.pop('DJANGO_SETTINGS_MODULE', None)\n{SENTRY}{APP}"
    log = boot("gunicorn-StreamWorker", tmp_path, "-c", "conf.py", *options, app=app)
    assert "WARNING" not in log
    assert "Traceback" not in log


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
