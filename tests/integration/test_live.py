"""LiveServer, and the pytest plugin that has it as a fixture, each in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
from support.servers import ROOT

from vento_wsgi.testing import LiveServer

APP = """
import sys, time
import urllib.request

from vento_wsgi import create_app, create_router

router = create_router()

@router.get("/")
def home(ctx):
    server = ctx.environ["SERVER_SOFTWARE"]
    return ctx.text(f"{server} {type(ctx.environ['vento_wsgi.connection'].drain).__name__}")

@router.get("/endless")
def endless(ctx):
    def beats():
        while True:
            yield b"beat"
            time.sleep(0.05)
    return ctx.stream(beats())

app = create_app()
app.use(router)
"""


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return str(response.read().decode())


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is on the path, with an application in it."""
    (tmp_path / "live_site.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "live_site", raising=False)
    return tmp_path


@pytest.mark.usefixtures("site")
def test_it_serves_on_a_port_of_its_own_until_it_is_closed() -> None:
    with LiveServer("live_site:app") as server, LiveServer("live_site:app") as other:
        assert server.port != other.port
        assert read(server.url) == f"gunicorn/{gunicorn_version()} Drain"
        assert "Listening at" in server.log()
        with urllib.request.urlopen(f"{server.url}/endless", timeout=30) as response:
            assert response.read(4) == b"beat"
            server.close()
        assert not runs(server.pid)
        assert runs(other.pid)
    assert not runs(other.pid)
    assert "Shutting down" in server.log()
    server.close()


def gunicorn_version() -> str:
    from gunicorn import __version__

    return str(__version__)


@pytest.mark.usefixtures("site")
def test_an_application_is_found_by_the_name_that_it_is_bound_to() -> None:
    import live_site  # type: ignore[import-not-found]

    with LiveServer(live_site.app, options=["--worker-class=sync"], env={"A": "b"}) as server:
        assert "worker: sync" in server.log()


def test_an_application_without_a_name_is_refused() -> None:
    with pytest.raises(LookupError, match="not an attribute of an imported module"):
        LiveServer(lambda *_: [])
    with pytest.raises(LookupError, match='"module:app" or a WSGI application, not 7'):
        LiveServer(7)


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("no_such_module:app", [], "No module named 'no_such_module'"),
        ("live_site:nothing", [], "nothing"),
        ("live_site:app", ["--no-such-option"], "no-such-option"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_server_that_does_not_start_says_why(target: str, options: list[str], says: str) -> None:
    with pytest.raises(RuntimeError, match=r"gunicorn ended with exit status [1-9]") as error:
        LiveServer(target, options=options)
    assert says in str(error.value)


def test_a_server_that_takes_too_long_is_stopped(site: Path) -> None:
    (site / "live_slow.py").write_text("print('here', flush=True)\nimport time\ntime.sleep(60)\n")
    with pytest.raises(RuntimeError, match=r"did not start within 0\.1 s"):
        LiveServer("live_slow:app", timeout=0.1)


# The plugin.


def run_pytest(folder: Path, *options: str, plugin: bool = True) -> tuple[int, str]:
    """What pytest says of the tests in `folder`, with the plugin and no other."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider"),
            *(("-p", "pytest_vento_wsgi") if plugin else ()),
            *options,
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # ours may be installed as well
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


FIXTURE = """
import os, urllib.request

def test_it(live_server):
    server = live_server("live_site:app")
    with urllib.request.urlopen(server.url) as response:
        assert response.status == 200
    with open("pid", "w") as file:
        file.write(str(server.pid))

def test_that_it_was_stopped():
    with open("pid") as file:
        pid = int(file.read())
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return
    assert False

def test_that_it_fails(live_server):
    live_server("live_site:other")
"""


def test_the_fixture_starts_servers_and_stops_them_with_the_test(site: Path) -> None:
    (site / "test_it.py").write_text(FIXTURE)
    code, said = run_pytest(site)
    assert "2 passed, 1 failed" in said or "1 failed, 2 passed" in said, said
    assert "RuntimeError: gunicorn ended with" in said
    assert code == 1


def test_the_plugin_imports_neither_gevent_nor_the_framework(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    roots = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert not roots & {'vento_wsgi', 'gevent', 'gunicorn', 'werkzeug'}\n"
    )
    code, said = run_pytest(tmp_path)
    assert code == 0, said


@pytest.mark.parametrize("first", [True, False])
def test_the_live_server_of_another_plugin_stays(tmp_path: Path, first: bool) -> None:
    (tmp_path / "other_plugin.py").write_text(
        "import pytest\n@pytest.fixture\ndef live_server():\n    return 'the other'\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_it(live_server, vento_live_server):\n"
        "    assert live_server == 'the other'\n"
        "    assert callable(vento_live_server)\n"
    )
    plugins = ["-p", "pytest_vento_wsgi", "-p", "other_plugin"]
    plugins = plugins if first else plugins[2:] + plugins[:2]
    code, said = run_pytest(tmp_path, *plugins, plugin=False)
    assert code == 0, said


def test_the_plugin_is_no_module_of_the_package() -> None:
    import pytest_vento_wsgi

    assert isinstance(pytest_vento_wsgi, ModuleType)
    assert Path(pytest_vento_wsgi.__file__ or "").parent == ROOT
