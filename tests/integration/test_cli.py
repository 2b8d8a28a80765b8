"""The command line and ``app.run()``, as real processes."""

import http.client
import os
import re
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support.commands import (
    CONSOLE_SCRIPT,
    MODULE,
    START_SECONDS,
    Process,
    done,
    started,
)
from support.servers import eventually

from vento_wsgi import __version__

APP = """
import os, time
from time import sleep
from vento_wsgi import create_app, create_router

router = create_router()

@router.get("/")
def home(ctx):
    return ctx.text("one")

@router.get("/about")
def about(ctx):
    return ctx.json({
        "module": __name__,
        "sleep": sleep.__module__,
        "pid": os.getpid(),
        "url": ctx.url,
    })

@router.post("/fails")
def fails(ctx):
    raise RuntimeError("as expected")

app = create_app()
app.use(router)
"""


COUNTED = f"{APP}\nif __name__ != '__main__':\n    print('imported', flush=True)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the application ``web:app``."""
    (tmp_path / "web.py").write_text(APP)
    return tmp_path


# Serving.


@pytest.mark.parametrize(
    ("command", "end"),
    [(CONSOLE_SCRIPT, signal.SIGTERM), (MODULE, signal.SIGINT)],
    ids=["vento-wsgi", "python -m vento_wsgi"],
)
def test_run_serves_on_a_gevent_worker_until_it_is_stopped(
    command: list[str], end: signal.Signals, project: Path
) -> None:
    with started([*command, "run", "web:app", "--port", "0"], project) as server:
        assert server.get() == "one"
        about = server.get("/about")
        assert '"module":"web"' in about
        assert '"sleep":"gevent' in about, "no gevent, or imported before it was patched"
        assert f"Listening at: http://127.0.0.1:{server.port()} " in server.log()
        assert server.workers() == 1
        server.process.send_signal(end)
        assert server.ends() == 0


def test_the_applications_errors_are_in_the_servers_log(project: Path) -> None:
    with started([*MODULE, "run", "web:app", "--port", "0"], project) as server:
        assert server.request("/fails", "POST")[0] == 500
        eventually(lambda: "RuntimeError: as expected" in server.log(), explain=server.log)
        assert server.log().count("[ERROR] POST /fails failed") == 1, "not in gunicorn's format"
        assert server.log().count("POST /fails failed") == 1


def test_gunicorn_takes_the_settings_as_a_module(project: Path) -> None:
    command = ["-m", "gunicorn", "-c", "python:vento_wsgi.server.config", "-b", "127.0.0.1:0"]
    with started([sys.executable, *command, "web:app"], project) as server:
        assert server.get() == "one"
        assert '"sleep":"gevent' in server.get("/about")
        assert server.request("/fails", "POST")[0] == 500
        eventually(lambda: "[ERROR] POST /fails failed" in server.log(), explain=server.log)


def test_the_name_of_the_application_is_app_by_default(project: Path) -> None:
    with started([*MODULE, "run", "web", "--port", "0"], project) as server:
        assert server.get() == "one"


def test_run_takes_an_application_from_another_folder_and_another_framework(
    tmp_path: Path,
) -> None:
    (tmp_path / "src" / "shop").mkdir(parents=True)
    (tmp_path / "src" / "shop" / "__init__.py").touch()
    (tmp_path / "src" / "shop" / "web.py").write_text(
        "class site:\n"
        "    def wsgi(environ, start_response):\n"
        "        start_response('200 OK', [('Content-Length', '5')])\n"
        "        return [b'plain']\n"
    )
    options = ["--app-dir", "src", "--port", "0"]
    with started([*MODULE, "run", "shop.web:site.wsgi", *options], tmp_path) as server:
        assert server.get() == "plain"


@pytest.mark.parametrize(
    ("options", "env"),
    [(["--workers", "2"], {}), ([], {"WEB_CONCURRENCY": "2"})],
    ids=["option", "environment"],
)
def test_run_starts_as_many_workers_as_it_is_told(
    options: list[str], env: dict[str, str], project: Path
) -> None:
    (project / "web.py").write_text(COUNTED)
    command = [*MODULE, "run", "web:app", "--port", "0", *options]
    with started(command, project, **env) as server:
        server.serves_on(2)


def test_run_listens_on_the_host_that_it_is_told(project: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with started([*MODULE, "run", "web:app", "--host", "::1", "--port", "0"], project) as server:
        assert server.request("/", host="::1") == (200, "one")


def rewritten(file: Path, server: Process, old: str, new: str) -> None:
    """Change `file`, and wait until the server answers with what it now says."""
    file.write_text(file.read_text().replace(old, new))
    times = 0

    def answers() -> bool:
        # the file is touched again, should the server not have looked at it for the first time
        nonlocal times
        times += 1
        later = file.stat().st_mtime + times
        os.utime(file, (later, later))
        with suppress(ConnectionError, http.client.HTTPException):
            return server.request("/")[1] == new
        return False

    eventually(answers, START_SECONDS, server.log)


def test_reload_serves_the_code_as_it_is_now(project: Path) -> None:
    with started([*MODULE, "run", "web:app", "--port", "0", "--reload"], project) as server:
        assert server.get() == "one"
        rewritten(project / "web.py", server, "one", "another")


def test_an_application_in_folders_that_are_no_packages_is_found(tmp_path: Path) -> None:
    (tmp_path / "sites" / "one").mkdir(parents=True)
    (tmp_path / "sites" / "one" / "web.py").write_text(APP)
    with started([*MODULE, "run", "sites.one.web:app", "--port", "0"], tmp_path) as server:
        assert '"module":"sites.one.web"' in server.get("/about")


def test_a_package_is_imported_by_the_worker_alone(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("from .web import app")
    (tmp_path / "shop" / "web.py").write_text(APP)
    command = [*MODULE, "run", "shop.web:app", "--port", "0", "--reload"]
    with started(command, tmp_path) as server:
        assert '"sleep":"gevent' in server.get("/about"), "imported before it was patched"
        rewritten(tmp_path / "shop" / "web.py", server, "one", "another")


# Serving from a script.


def test_an_application_of_a_script_serves_itself_under_the_scripts_name(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "my-site.py").write_text(
        f"{COUNTED}\nif __name__ == '__main__':\n    app.run(port=0, workers=2)\n"
    )
    with started([sys.executable, "scripts/my-site.py"], tmp_path) as server:
        about = server.get("/about")
        assert '"module":"my-site"' in about
        assert '"sleep":"gevent' in about
        server.serves_on(2)
        server.process.terminate()
        assert server.ends() == 0


def test_an_application_of_a_module_that_runs_as_a_script_serves_itself(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "web.py").write_text(
        f"{APP}\nsite = app\ndel app\nif __name__ == '__main__':\n    site.run(port=0)\n"
    )
    with started([sys.executable, "-m", "shop.web"], tmp_path) as server:
        assert '"module":"shop.web"' in server.get("/about")


@pytest.mark.parametrize(
    "script",
    [
        "from vento_wsgi import create_app\ncreate_app().run(port=0)\n",
        "from vento_wsgi import create_app\napps = [create_app()]\napps[0].run(port=0)\n",
        f"{APP}\napp.run(port=0)\n",
    ],
    ids=["no name", "in a list", "unguarded"],
)
def test_an_application_that_a_script_cannot_serve_says_how(script: str, tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text(script)
    with started([sys.executable, "site_.py"], tmp_path) as server:
        assert server.ends() not in (0, 2)
        assert "RuntimeError: app.run() serves an application that is bound to a name" in (
            server.log()
        )
        assert 'if __name__ == "__main__":' in server.log()
        assert "vento-wsgi run module:app" in server.log()


def test_an_application_without_a_script_says_how_it_is_served(tmp_path: Path) -> None:
    code = "from vento_wsgi import create_app; app = create_app(); app.run(port=0)"
    result = done([sys.executable, "-c", code], tmp_path)
    assert result.returncode == 1
    assert "vento-wsgi run module:app" in result.stderr


def test_a_wrong_option_of_a_script_is_refused_as_the_command_line_does(tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text(
        f"{APP}\nif __name__ == '__main__':\n    app.run(port=70000)\n"
    )
    result = done([sys.executable, "site_.py"], tmp_path)
    assert result.returncode == 2
    assert "a port is a number from 0 to 65535, not '70000'" in result.stderr


# What cannot be served.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["run"], "the following arguments are required: module:app"),
        (["run", "nowhere:app"], r"there is no module 'nowhere' in .*: write module:app"),
        (["run", "web.nowhere:app"], r"there is no module 'web\.nowhere' in "),
        (["run", ":app"], r"there is no module '' in "),
        (["run", "web.py"], r"'web\.py' is a file: name its module, like 'web:app'"),
        (["run", "./web.py:app"], r"'\./web\.py' is a file: .* like 'web:app'"),
        (["run", "shop/web:site"], r"'shop/web' is a file: .* like 'shop\.web:site'"),
        (["run", "web:app", "--port", "http"], "a port is a number from 0 to 65535, not 'http'"),
        (["run", "web:app", "--port", "65536"], "from 0 to 65535, not '65536'"),
        (["run", "web:app", "--port", "-1"], "from 0 to 65535, not '-1'"),
        (["run", "web:app", "--workers", "0"], "number of workers is 1 or more, not '0'"),
        (["run", "web:app", "--workers", "two"], "number of workers is 1 or more, not 'two'"),
        (["run", "web:app", "--host", "no-such-host.invalid"], "--host: 'no-such-host.invalid' is"),
        (["run", "web:app", "--host", "a..b"], r"--host: 'a\.\.b' is"),
        (["run", "web:app", "--host", "192.0.2.1"], r"cannot listen on 192\.0\.2\.1:8000: "),
        (["run", "web:app", "--app-dir", "nowhere"], "--app-dir: there is no folder 'nowhere'"),
        (["run", "web:app", "--app-dir", "web.py"], r"--app-dir: there is no folder 'web\.py'"),
        (["run", "web:app", "--unknown"], "unrecognized arguments: --unknown"),
        (["routes", "nowhere:app"], r"there is no module 'nowhere' in "),
        (["routes", "web:nothing"], "'web' has no 'nothing'; it has app"),
        (["routes", "web:os"], "'web:os' is module, not a WSGI application"),
        (["routes", "web:home"], "'web:home' is function, not an App of vento_wsgi"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, project: Path
) -> None:
    result = done([*MODULE, *arguments], project)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *usage, line = result.stderr.splitlines()
    assert re.match(r"vento-wsgi( \w+)?: error: ", line)
    assert re.search(message, line)
    assert all(line.startswith(("usage:", " ")) for line in usage)


@pytest.mark.parametrize("command", [CONSOLE_SCRIPT, MODULE], ids=["vento-wsgi", "module"])
def test_the_command_line_itself_is_not_served(command: list[str], tmp_path: Path) -> None:
    result = done([*command, "run", "__main__:app"], tmp_path)
    assert result.returncode == 2, result.stderr
    assert "there is no module '__main__' in " in result.stderr


def test_a_wrong_number_of_workers_in_the_environment_is_refused(project: Path) -> None:
    result = done([*MODULE, "run", "web:app"], project, WEB_CONCURRENCY="many")
    assert result.returncode == 2
    assert "the number of workers is 1 or more, not 'many'" in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken_is_said_at_once(host: str, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = done([*MODULE, "run", "web:app", "--host", host, "--port", port], project)
    assert result.returncode == 2
    *_, line = result.stderr.splitlines()
    assert line == f"vento-wsgi: error: port {port} on {host} is taken: use another --port"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("web:nothing", "'web' has no 'nothing'; it has app"),
        ("web:app.nothing", r"'web' has no 'app\.nothing'"),
        ("web:__name__", "'web:__name__' is str, not a WSGI application"),
    ],
)
def test_an_application_that_is_not_there_ends_the_server(
    target: str, message: str, project: Path
) -> None:
    with started([*MODULE, "run", target, "--port", "0"], project) as server:
        assert server.ends() != 0
        assert re.search(message, server.log())
        assert server.workers() == 1, "it tried again"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("app app", "SyntaxError"),
        ("import gone", "No module named 'gone'"),
    ],
)
def test_an_application_that_cannot_be_imported_shows_why_and_ends_the_server(
    line: str, error: str, project: Path
) -> None:
    with (project / "web.py").open("a") as file:
        file.write(f"{line}\n")
    with started([*MODULE, "run", "web:app", "--port", "0"], project) as server:
        assert server.ends() not in (0, 2)
        assert "Traceback" in server.log()
        assert error in server.log()
        assert f'web.py", line {APP.count(chr(10)) + 1}' in server.log()


@pytest.mark.parametrize("command", ["run", "routes"])
def test_a_package_that_cannot_be_imported_shows_why(command: str, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("import gone")
    (tmp_path / "shop" / "web.py").write_text(APP)
    options = ["--port", "0"] if command == "run" else []
    with started([*MODULE, command, "shop.web:app", *options], tmp_path) as server:
        assert server.ends() != 0
        assert "No module named 'gone'" in server.log()


# The rest.


@pytest.mark.parametrize("command", [CONSOLE_SCRIPT, MODULE], ids=["vento-wsgi", "module"])
def test_the_version_is_the_packages(command: list[str], tmp_path: Path) -> None:
    result = done([*command, "--version"], tmp_path)
    assert (result.returncode, result.stdout) == (0, f"vento-wsgi {__version__}\n")


def test_help_names_every_option(tmp_path: Path) -> None:
    result = done([*MODULE, "run", "--help"], tmp_path)
    assert result.returncode == 0
    for option in ("module:app", "--host", "--port", "--workers", "--reload", "--app-dir"):
        assert option in result.stdout


def test_routes_are_listed_with_their_methods_and_handlers(tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text(
        f"{APP}\n"
        "pages = router.group('/pages')\n"
        "pages.route('/:id<int>', home, methods=['PUT', 'DELETE'])\n"
        "app.mount('/old', create_app())\n"
    )
    result = done([*MODULE, "routes", "site_:app"], tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()]
    assert rows[:4] == [
        ["GET", "/", "site_.home"],
        ["GET", "/about", "site_.about"],
        ["POST", "/fails", "site_.fails"],
        ["DELETE,PUT", "/pages/<int:id>", "site_.home"],
    ]
    assert rows[4][:2] == ["*", "/old/…"]
    assert len(rows) == 5


def test_routes_of_an_application_without_any_are_none(tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text("from vento_wsgi import create_app\napp = create_app()\n")
    result = done([*MODULE, "routes", "site_"], tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
