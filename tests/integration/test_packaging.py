"""What the wheel and the sdist hold, what they install, and that the result works alone."""

import ast
import email
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import closing
from email.message import Message
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from support.commands import started
from support.servers import ROOT

from vento_wsgi import __version__
from vento_wsgi.server.hooks import GEVENT, GUNICORN

MINUTES = 10 * 60.0  # for what downloads

APP = """
from threading import Event

from vento_wsgi import create_app, create_router

router = create_router()
go = Event()

@router.get("/")
def home(ctx):
    return ctx.text("hello")

@router.get("/stream")
def stream(ctx):
    def words():
        yield "first "
        go.wait(30)
        yield "last"
    return ctx.stream(words(), "text/plain")

@router.post("/go")
def let_go(ctx):
    go.set()
    return ctx.text("")

@router.get("/file")
def file(ctx):
    return ctx.file(__file__)

app = create_app()
app.use(router)
"""

TESTED = """
import sys

def test_nothing_is_imported():
    assert not {"vento_wsgi", "gevent", "werkzeug"} & set(sys.modules)

def test_web(live_server):
    import urllib.request
    server = live_server("web:app")
    with urllib.request.urlopen(server.url) as response:
        assert response.read() == b"hello"
"""

TYPED = """
from collections.abc import Iterator

from vento_wsgi import Context, Event, Response, create_app, create_router
from werkzeug.wrappers import Response as AnyResponse

router = create_router()

@router.get("/text")
def text(ctx: Context) -> Response:
    return ctx.text(ctx.query["q"])

@router.post("/chat", content_type="text/event-stream")
def chat(ctx: Context) -> Iterator[Event]:
    yield Event({"path": ctx.path})

@router.route("/any", methods=["GET", "PUT"])
def anything(ctx: Context) -> Response:
    return ctx.stream(iter([ctx.method]), headers={"X-A": "1"})

router.delete("/called", text)

app = create_app()
app.use(router)
reveal_type(text)
"""


class Built(NamedTuple):
    sdist: Path
    wheel: Path


def run(command: Sequence[object], cwd: Path) -> str:
    """The output of `command`, in an environment without this checkout."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MINUTES,
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of this checkout, and a wheel of that sdist."""
    tmp = tmp_path_factory.mktemp("built")
    leave = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules"
    )
    shutil.copytree(ROOT, tmp / "source", ignore=leave)
    run([sys.executable, "-m", "build", "--outdir", tmp, tmp / "source"], tmp)
    [sdist] = tmp.glob("*.tar.gz")
    [wheel] = tmp.glob("*.whl")
    return Built(sdist, wheel)


def bare(folder: Path, *packages: object) -> Path:
    """A virtual environment with `packages` and what they need; where its programs are."""
    run([sys.executable, "-m", "venv", folder], folder.parent)
    programs = folder / "bin"
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", *packages], folder.parent)
    return programs


@pytest.fixture(scope="module", params=["sdist", "wheel"])
def programs(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The programs of a virtual environment into which the sdist, or the wheel, was installed."""
    kind: str = request.param
    return bare(tmp_path_factory.mktemp("bare") / kind, getattr(built, kind))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "web.py").write_text(APP)
    return tmp_path


def sdist_names(built: Built) -> set[str]:
    with tarfile.open(built.sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def wheel_names(built: Built) -> set[str]:
    with zipfile.ZipFile(built.wheel) as archive:
        return set(archive.namelist())


def metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as archive:
        return email.message_from_bytes(
            archive.read(f"vento_wsgi-{__version__}.dist-info/METADATA")
        )


def requirements(built: Built, extra: str = "") -> list[Requirement]:
    """What an installation needs, and what it needs besides with `extra`."""
    every = [Requirement(line) for line in metadata(built).get_all("Requires-Dist", [])]
    return [
        requirement
        for requirement in every
        if (requirement.marker is None and not extra)
        or (requirement.marker is not None and requirement.marker.evaluate({"extra": extra}))
    ]


def bounds(requirement: Requirement) -> dict[str, Version]:
    return {each.operator: Version(each.version) for each in requirement.specifier}


# What is built.


def test_the_wheel_has_every_module_of_the_package_and_nothing_else(built: Built) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "vento_wsgi").rglob("*.py")}
    modules.add("pytest_vento_wsgi.py")
    names = wheel_names(built)
    assert {name for name in names if name.endswith(".py")} == modules
    about = f"vento_wsgi-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"vento_wsgi", "pytest_vento_wsgi.py", about}


def test_the_sdist_has_what_the_package_is_built_from(built: Built) -> None:
    assert {"setup.cfg", "setup.py", "README.md", "LICENSE"} <= sdist_names(built)


def test_both_are_marked_as_typed_and_carry_the_licence(built: Built) -> None:
    for names in (sdist_names(built), wheel_names(built)):
        assert "vento_wsgi/py.typed" in names
        assert any(name.endswith("LICENSE") for name in names)


def test_the_version_is_the_same_everywhere(built: Built) -> None:
    assert built.sdist.name == f"vento_wsgi-{__version__}.tar.gz"
    assert built.wheel.name == f"vento_wsgi-{__version__}-py3-none-any.whl"
    assert metadata(built)["Version"] == __version__


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ("", {"werkzeug", "gunicorn", "gevent"}),
        ("brotli", {"brotli"}),
        ("metrics", {"prometheus_client"}),
        ("redis", {"redis"}),
        ("zstd", {"zstandard"}),
    ],
)
def test_what_is_needed_is_allowed_below_the_major_version_after_the_tested_one(
    built: Built, extra: str, names: set[str]
) -> None:
    needed = requirements(built, extra)
    assert {requirement.name for requirement in needed} == names
    for requirement in needed:
        tested = Version(version(requirement.name))
        allowed = bounds(requirement)
        assert set(allowed) == {">=", "<"}
        assert allowed[">="] <= tested < allowed["<"] == Version(f"{tested.major + 1}")


def test_an_installation_needs_a_python_that_is_maintained(built: Built) -> None:
    assert metadata(built)["Requires-Python"] == ">=3.10"


# What is installed.


def test_it_is_installed_without_this_checkout(programs: Path, tmp_path: Path) -> None:
    where = run(
        [programs / "python", "-c", "import vento_wsgi; print(vento_wsgi.__file__)"], tmp_path
    )
    assert Path(where.strip()).is_relative_to(programs.parent)
    assert run([programs / "vento-wsgi", "--version"], tmp_path) == f"vento-wsgi {__version__}\n"
    code = "from importlib.metadata import version; print(version('vento_wsgi'))"
    assert run([programs / "python", "-c", code], tmp_path).strip() == __version__


def test_what_is_installed_serves(programs: Path, project: Path) -> None:
    command = [programs / "vento-wsgi", "run", "web:app", "--port", "0"]
    with started(command, project, PYTHONPATH="") as server:
        assert server.get("/") == "hello"


def test_pytest_has_the_live_server_of_what_is_installed_and_can_do_without(
    built: Built, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = bare(tmp_path_factory.mktemp("pytest") / "venv", built.wheel, "pytest")
    (project / "test_web.py").write_text(TESTED)
    command = [programs / "python", "-W", "error", "-m", "pytest", "-q", "-W", "error"]
    assert "2 passed" in run(command, project)
    assert "1 passed" in run([*command, "-p", "no:vento_wsgi", "-k", "nothing"], project)


def test_a_strictly_typed_application_checks_against_it(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(TYPED)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"]
    said = run([*mypy, "--python-executable", programs / "python", "web.py"], tmp_path)
    assert 'Revealed type is "def (ctx: vento_wsgi.context.Context) -> ' in said
    assert "Success: no issues found" in said


def test_the_lowest_versions_that_it_allows_do_serve(
    built: Built, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lowest = [f"{each.name}=={bounds(each)['>=']}" for each in requirements(built)]
    programs = bare(tmp_path_factory.mktemp("lowest") / "venv", built.wheel, *lowest)
    command = [programs / "vento-wsgi", "run", "web:app", "--port", "0"]
    with started(command, project, PYTHONPATH="") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port(), timeout=30)
        with closing(connection):
            connection.request("GET", "/stream")
            with connection.getresponse() as response:
                assert response.status == 200
                assert response.headers["Transfer-Encoding"] == "chunked"
                assert response.read1(100) == b"first "
                assert server.request("/go", "POST")[0] == 200
                assert response.read() == b"last"

            connection.request("GET", "/nowhere")
            with connection.getresponse() as response:
                assert response.status == 404
                assert response.headers["Content-Type"] == "application/problem+json"
                response.read()

            connection.request("GET", "/file", headers={"Range": "bytes=1-4"})
            with connection.getresponse() as response:
                assert response.status == 206
                assert response.headers["Content-Range"] == f"bytes 1-4/{len(APP)}"
                assert response.read() == b"from"


# What importing it does.


def test_importing_the_package_brings_in_no_server_and_starts_nothing() -> None:
    code = """
import sys, threading
before = threading.active_count()
import vento_wsgi
roots = {name.partition(".")[0] for name in sys.modules}
print(sorted(roots & {"gevent", "greenlet", "gunicorn", "redis", "flask", "django"}))
print(threading.active_count() - before)
"""
    assert run([sys.executable, "-c", code], ROOT).splitlines() == ["[]", "0"]


def test_importing_it_with_a_werkzeug_that_lacks_what_is_used_says_what_is_missing() -> None:
    code = """
from werkzeug.wrappers import Request
del Request._load_form_data
try:
    import vento_wsgi
except ImportError as error:
    print(error)
"""
    said = run([sys.executable, "-c", code], ROOT)
    assert said == (
        f"werkzeug {version('werkzeug')} has no Request._load_form_data, which vento_wsgi needs: "
        "install werkzeug 3\n"
    )


PRIVATE = {
    "_SubParsersAction",  # argparse and tempfile have no other name for these types
    "_TemporaryFileWrapper",
    "_asdict",  # documented: of named tuples
    "_current_frames",  # documented: of sys
    "_load_form_data",  # checked at import
    "_restore_context",  # of asgiref, if it is there
    "_sock",  # of gevent.pywsgi, if it is there
}
"""Names with an underscore that others own and that are used outside of hooks.py."""


def test_what_others_keep_private_is_used_where_it_is_checked() -> None:
    ours: set[str] = set()
    used: set[str] = set()
    for path in (ROOT / "vento_wsgi").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    ours.add(name)
                case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                    ours.add(name)
            match node:
                case ast.Attribute(attr=name) | ast.alias(name=name):
                    used.add(name)
                case ast.Call(
                    func=ast.Name(id="getattr" | "hasattr"),
                    args=[_, ast.Constant(value=str(name)), *_],
                ):
                    used.add(name)
    private = {name for name in used - ours if name.startswith("_") and not name.startswith("__")}
    assert private - set(" ".join(names for _, _, names in GUNICORN + GEVENT).split()) <= PRIVATE
