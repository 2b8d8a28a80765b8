"""What StreamWorker uses of gunicorn and gevent is there, or it does not serve."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.servers import APPS, connect, serve

from vento_wsgi.server import hooks


def worker(*without: str) -> Any:
    return SimpleNamespace(**{name: None for name in hooks.WORKER.split() if name not in without})


def test_nothing_is_missing() -> None:
    assert hooks.missing(worker()) == ""


@pytest.mark.parametrize("hook", hooks.WORKER.split())
def test_each_hook_of_the_worker_itself_that_is_missing_is_named(hook: str) -> None:
    assert hooks.missing(worker(hook)).endswith(f" has no gunicorn.workers.base.Worker(…).{hook}")


def each() -> Iterator[Any]:
    for name in ("GUNICORN", "GEVENT"):
        for number, (place, _, names) in enumerate(getattr(hooks, name)):
            for hook in names.split():
                yield pytest.param(name, number, hook, id=f"{place}.{hook}")


@pytest.mark.parametrize(("table", "number", "hook"), list(each()))
def test_each_hook_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, table: str, number: int, hook: str
) -> None:
    listed = list(getattr(hooks, table))
    place, find, names = listed[number]
    found = find()
    others = {name: None for name in names.split() if name != hook and hasattr(found, name)}
    listed[number] = (place, lambda: SimpleNamespace(**others), names)
    monkeypatch.setattr(hooks, table, tuple(listed))
    missing = hooks.missing(worker())
    assert missing.endswith(f".{place}.{hook}")
    assert missing.count(" has no ") == 1


RENAMED = {
    "a method of the response": "from gunicorn.http.wsgi import Response as R; del R._emit_body",
    "a method of the request": "from gunicorn.http.message import Request as R; del R.read_into",
    "a method of the worker": ("from gunicorn.workers.base import Worker; del Worker.handle_error"),
}


@pytest.mark.parametrize("change", RENAMED.values(), ids=RENAMED)
def test_a_worker_without_a_hook_does_not_serve(tmp_path: Path, change: str) -> None:
    (tmp_path / "settings.py").write_text(f"def post_fork(server, worker):\n    {change}\n")
    options = ("-c", str(tmp_path / "settings.py"), "--no-control-socket")
    with (
        pytest.raises(ChildProcessError, match="ended with 3") as raised,
        serve("gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp_path, options=options),
    ):
        pass
    log = str(raised.value)
    assert log.count("StreamWorker cannot run here: gunicorn ") == 1
    assert change.rpartition(".")[2] in log
    assert "Traceback" not in log


OTHER_NAMES = {
    "load_wsgi": """
def post_fork(server, worker):
    from gunicorn.http.wsgi import Response
    from gunicorn.workers.base import Worker
    del Response._emit_body
    Worker.load = Worker.load_wsgi
    del Worker.load_wsgi
    code = Worker.init_process.__code__
    names = tuple("load" if name == "load_wsgi" else name for name in code.co_names)
    Worker.init_process.__code__ = code.replace(co_names=names)
""",
    "alive": """
from gunicorn.workers.base import Worker

code = Worker.__init__.__code__
names = tuple("living" if name == "alive" else name for name in code.co_names)
Worker.__init__.__code__ = code.replace(co_names=names)
""",
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_nothing_that_gunicorn_calls_is_needed_for_the_check(tmp_path: Path, name: str) -> None:
    (tmp_path / "settings.py").write_text(OTHER_NAMES[name])
    options = ("-c", str(tmp_path / "settings.py"), "--no-control-socket")
    with (
        pytest.raises(ChildProcessError, match="ended with 3") as raised,
        serve("gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp_path, options=options),
    ):
        pass
    assert "StreamWorker cannot run here: gunicorn " in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BLOCK_LIMIT", "60s"),
        ("DRAIN_WINDOW", "-1"),
        ("RECEIVE_TIMEOUT", "nan"),
        ("SEND_TIMEOUT", ""),
    ],
)
def test_a_setting_that_is_no_number_of_seconds_is_named(
    tmp_path: Path, name: str, value: str
) -> None:
    with (
        pytest.raises(ChildProcessError, match="ended with 3") as raised,
        serve(
            *("gunicorn-StreamWorker", "receiving:app"),
            cwd=APPS,
            tmp=tmp_path,
            env={f"VENTO_{name}": value},
        ),
    ):
        pass
    log = str(raised.value)
    assert f"$VENTO_{name} is a number of seconds, 0 or more, not {value!r}" in log
    assert "Traceback" not in log


def test_http2_is_said_to_be_served_one_after_another(tmp_path: Path) -> None:
    options = ("--http-protocols=h2,h1", "--no-control-socket", "--access-logfile=/dev/null")
    env = {"VENTO_BROKER_URL": "memory://"}
    with serve(
        "gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp_path, options=options, env=env
    ) as running:
        assert running.log().count("an HTTP/2 connection are served one after another") == 1
        with connect(running) as raw:
            raw.request("GET", "/app/news")
            piece = raw.read_piece()
            assert piece is not None
            assert piece.data.startswith(b":")
        with connect(running) as raw:
            assert raw.request("GET", "/unread").status == 200
            assert raw.read_all().data == b"unread"
        log = running.log()
        assert "Traceback" not in log
        assert "ERROR" not in log
