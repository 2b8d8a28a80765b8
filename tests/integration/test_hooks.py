"""A StreamWorker whose hooks or settings are wrong says so and does not serve."""

from pathlib import Path

import pytest
from support.servers import APPS, connect, serve

RENAMED = {
    "a method of the response": "from gunicorn.http.wsgi import Response as R; del R.can_sendfile",
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
    del Response.can_sendfile
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
