"""Imports go down only.

The house has four floors. A module may import from its own floor and from those below it, and
from elsewhere what ELSEWHERE grants it. Every module must have a floor: one that stands in no
line of FLOORS fails here until it is given one.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "vento_wsgi"
SOURCE = Path(__file__).resolve().parent.parent / PACKAGE

# A name stands for the module and for all that lies below it, unless a longer one says otherwise.
FLOORS: dict[int, tuple[str, ...]] = {
    3: (
        "vento_wsgi",  # the front door: the names of all floors, for those outside and floor 3
        "vento_wsgi.__main__",
        "vento_wsgi.cli",
        "vento_wsgi.contrib",
        "vento_wsgi.doctor",
        "vento_wsgi.server",
        "vento_wsgi.testing",
    ),
    2: (
        "vento_wsgi.app",
        "vento_wsgi.context",
        "vento_wsgi.middleware",
        "vento_wsgi.routing",
    ),
    1: (
        "vento_wsgi.account",
        "vento_wsgi.broker",
        "vento_wsgi.clock",
        "vento_wsgi.coding",
        "vento_wsgi.connection",
        "vento_wsgi.files",
        "vento_wsgi.greenlets",
        "vento_wsgi.keys",
        "vento_wsgi.policies",
        "vento_wsgi.pump",
        "vento_wsgi.request",
        "vento_wsgi.response",
        "vento_wsgi.stream",
        "vento_wsgi.turns",
    ),
    0: (
        "vento_wsgi.body",
        "vento_wsgi.charsets",
        "vento_wsgi.exceptions",
        "vento_wsgi.fields",
        "vento_wsgi.formats",
        "vento_wsgi.logs",
        "vento_wsgi.sse",
        "vento_wsgi.terminal",
    ),
}

FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}
HOUSE = [module for module in FLOOR_OF if module != PACKAGE]

# Who may import what is not of the standard library; floor 0 imports none of it.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "werkzeug": tuple(module for module in HOUSE if FLOOR_OF[module] > 0),
    "gunicorn": ("vento_wsgi.server",),
    "gevent": (
        "vento_wsgi.account",
        "vento_wsgi.broker",
        "vento_wsgi.clock",
        "vento_wsgi.greenlets",
        "vento_wsgi.server",
        "vento_wsgi.turns",
    ),
    "greenlet": (
        "vento_wsgi.broker",
        "vento_wsgi.connection",
        "vento_wsgi.greenlets",
        "vento_wsgi.server",
        "vento_wsgi.turns",
    ),
    "redis": ("vento_wsgi.broker.redis",),
    "brotli": ("vento_wsgi.coding",),
    "zstandard": ("vento_wsgi.coding",),
    "flask": ("vento_wsgi.contrib.flask",),
    "prometheus_client": ("vento_wsgi.contrib.prometheus",),
    "django": ("vento_wsgi.contrib.django",),
    "asgiref": ("vento_wsgi.contrib.django",),
    # of type checkers, where nothing is installed: an import that really runs fails in the
    # bare environments of test_packaging
    "_typeshed": tuple(HOUSE),
    "typing_extensions": tuple(HOUSE),
}


class Import(NamedTuple):
    module: str
    line: int


def within(module: str, other: str) -> bool:
    return module == other or module.startswith(f"{other}.")


def floor_of(module: str) -> int | None:
    """The floor of a module of the package; None when nobody has given it one."""
    if module in FLOOR_OF:
        return FLOOR_OF[module]
    parents = (name for name in HOUSE if within(module, name))
    closest = max(parents, key=len, default=None)
    return None if closest is None else FLOOR_OF[closest]


def imports(
    source: str, module: str, *, package: bool, modules: frozenset[str]
) -> Iterator[Import]:
    """Every module that `source` imports, wherever in it, by its absolute name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, node.lineno)
            case ast.ImportFrom(module=name, names=names, level=level):
                start = module.split(".")
                start = start[: len(start) - level + package] if level else []
                base = ".".join([*start, *([name] if name else [])])
                for alias in names:
                    full = f"{base}.{alias.name}"
                    yield Import(full if full in modules else base, node.lineno)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(imported)), *_],
            ) if called in ("import_module", "__import__"):
                yield Import(imported, node.lineno)


def faults(
    source: str, module: str, *, package: bool = False, modules: frozenset[str] = frozenset()
) -> list[str]:
    """What `source`, as the text of `module`, imports and may not."""
    floor = floor_of(module)
    if floor is None:
        return [f"{module} has no floor: give it one in FLOORS"]
    if module == PACKAGE:
        return []
    found = []
    for name, line in imports(source, module, package=package, modules=modules):
        where = f"{module}, line {line}"
        if within(name, PACKAGE):
            other = floor_of(name)
            if other is None:
                found.append(f"{where}: {name} has no floor")
            elif other > floor:
                found.append(f"{where}: {name} is on floor {other}, above {floor}")
            continue
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top not in ELSEWHERE:
            found.append(f"{where}: {top} is in no line of ELSEWHERE")
        elif not any(within(module, allowed) for allowed in ELSEWHERE[top]):
            found.append(f"{where}: {top} is not for this module")
    return found


def files() -> dict[str, Path]:
    """The package's modules by name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = files()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    path = MODULES[module]
    package = path.name == "__init__.py"
    assert faults(path.read_text(), module, package=package, modules=frozenset(MODULES)) == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    refused = {"utils", "helpers", "types", "constants"}
    assert [module for module in MODULES if refused & set(module.split("."))] == []


# That a fault is found.

KNOWN = frozenset({*FLOOR_OF, "vento_wsgi.server.run", "vento_wsgi.broker.redis"})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vento_wsgi.stream", "from .app import App"),
        ("vento_wsgi.stream", "from . import app"),
        ("vento_wsgi.stream", "from . import sse, app"),
        ("vento_wsgi.stream", "import vento_wsgi.app"),
        ("vento_wsgi.stream", "import json, vento_wsgi.app as a"),
        ("vento_wsgi.stream", "from vento_wsgi.app import App"),
        ("vento_wsgi.stream", "from vento_wsgi import app"),
        ("vento_wsgi.stream", "from vento_wsgi import Event"),
        ("vento_wsgi.stream", "from . import Event"),
        ("vento_wsgi.stream", "import vento_wsgi"),
        ("vento_wsgi.stream", "from vento_wsgi import *"),
        ("vento_wsgi.stream", "def later():\n    from .app import App"),
        ("vento_wsgi.stream", "if False:\n    from .app import App"),
        ("vento_wsgi.stream", "try:\n    from .app import App\nexcept ImportError:\n    pass"),
        ("vento_wsgi.stream", "class A:\n    def a(self):\n        import vento_wsgi.app"),
        ("vento_wsgi.stream", "import importlib\nimportlib.import_module('vento_wsgi.app')"),
        ("vento_wsgi.stream", "__import__('vento_wsgi.app')"),
        ("vento_wsgi.broker.redis", "from ..app import App"),
        ("vento_wsgi.broker.redis", "from .. import app"),
        ("vento_wsgi.broker.redis", "from ..server.run import run"),
        ("vento_wsgi.app", "from .server.run import run"),
        ("vento_wsgi.app", "from .server import run"),
        ("vento_wsgi.app", "from .cli import main"),
        ("vento_wsgi.sse", "from .stream import Stream"),
        ("vento_wsgi.sse", "import werkzeug"),
        ("vento_wsgi.sse", "from werkzeug.http import http_date"),
        ("vento_wsgi.sse", "import gevent"),
        ("vento_wsgi.app", "import gevent"),
        ("vento_wsgi.app", "def f():\n    from gevent import sleep"),
        ("vento_wsgi.app", "from gevent.event import Event"),
        ("vento_wsgi.app", "import gunicorn"),
        ("vento_wsgi.cli", "import gevent"),
        ("vento_wsgi.broker", "import redis"),
        ("vento_wsgi.broker.sqlite", "import redis"),
        ("vento_wsgi.pump", "import redis"),
        ("vento_wsgi.contrib.flask", "import django"),
        ("vento_wsgi.server", "import numpy"),
        ("vento_wsgi.surprise", ""),
        ("vento_wsgi.app", "from .surprise import x"),
    ],
)
def test_an_import_that_may_not_be_is_found(module: str, source: str) -> None:
    assert len(faults(source, module, modules=KNOWN)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vento_wsgi.app", "from .stream import Stream\nfrom . import sse\nimport werkzeug.http"),
        ("vento_wsgi.app", "from .routing import Router\nfrom vento_wsgi.body import encode"),
        (
            "vento_wsgi.sse",
            "import json\nfrom collections.abc import Iterator\nfrom .body import x",
        ),
        ("vento_wsgi.sse", "from _typeshed.wsgi import WSGIEnvironment"),
        ("vento_wsgi.greenlets", "import gevent\nfrom gevent.queue import Queue"),
        ("vento_wsgi.broker.redis", "import redis\nfrom ..sse import Event\nfrom .base import x"),
        (
            "vento_wsgi.server.worker",
            "import gunicorn.workers.ggevent, gevent\nfrom ..app import App",
        ),
        ("vento_wsgi.cli", "from . import __version__\nfrom .server.run import run"),
        ("vento_wsgi.contrib.flask", "import flask\nimport vento_wsgi"),
        ("vento_wsgi", "from .app import App\nfrom .testing import Client"),
    ],
)
def test_an_import_that_goes_down_is_not_found_fault_with(module: str, source: str) -> None:
    assert faults(source, module, package=module == PACKAGE, modules=KNOWN) == []


def test_a_package_imports_relative_to_itself_and_a_module_to_its_package() -> None:
    def found(source: str, module: str, *, package: bool) -> list[str]:
        return [i.module for i in imports(source, module, package=package, modules=KNOWN)]

    assert found("from . import app", "vento_wsgi", package=True) == ["vento_wsgi.app"]
    assert found("from .run import run", "vento_wsgi.server", package=True) == [
        "vento_wsgi.server.run"
    ]
    assert found("from ..app import x", "vento_wsgi.server", package=True) == ["vento_wsgi.app"]
    assert found("from ..app import x", "vento_wsgi.server.run", package=False) == [
        "vento_wsgi.app"
    ]
