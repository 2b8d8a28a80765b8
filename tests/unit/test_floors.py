"""Imports go down only.

The package is a house of floors. A module may import from its own floor and from those below it,
and other packages only where the table grants it. Every module must stand in the table: one that
does not fails here until it is given a floor.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

PACKAGE = "vento_wsgi"
SOURCE = Path(__file__).resolve().parents[2] / PACKAGE
TYPING = ("_typeshed", "typing_extensions")  # never imported at run time: test_packaging sees that


class Floor(NamedTuple):
    """modules: a name stands for a module and all below it, unless a longer name says otherwise.

    packages: third-party packages that all of the floor may import; others: those of one module.
    """

    modules: tuple[str, ...]
    packages: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]] = MappingProxyType({})


# From the ground up.
HOUSE = (
    Floor(
        (
            *("charsets", "exceptions", "http_syntax", "logs", "werkzeug_hooks"),
            *("sse", "formats", "bodies.sources"),
        ),
        others={"werkzeug_hooks": ("werkzeug",)},
    ),
    Floor(("streaming.environ", "streaming.ticker", "streaming.turns"), ("gevent", "greenlet")),
    Floor(("streaming",), ("gevent", "greenlet", "werkzeug")),
    Floor(
        ("bodies", "request", "response"),
        ("werkzeug",),
        {"bodies.codings": ("brotli", "zstandard")},
    ),
    Floor(("app", "context", "routing"), ("werkzeug",)),
    # a subscription is a body that knows how to become a WSGI iterable: nothing below knows it
    Floor(("broker",), ("gevent", "greenlet"), {"broker.backends.redis": ("redis",)}),
    Floor(("middleware",), ("werkzeug",)),
    Floor(
        ("", "__main__", "cli", "contrib", "doctor", "server", "testing"),
        ("werkzeug",),
        {
            "server": ("gevent", "greenlet", "gunicorn", "gunicorn_h1c"),
            "contrib.flask": ("flask",),
            "contrib.prometheus": ("prometheus_client",),
            "contrib.django": ("asgiref", "django"),
        },
    ),
)


class Import(NamedTuple):
    module: str
    line: int


def within(module: str, other: str) -> bool:
    return module == other or module.startswith(f"{other}.")


def number_of(module: str) -> int | None:
    """Which floor a module of the package is on, from 0 up; None if it is on none."""
    name = module.removeprefix(PACKAGE).removeprefix(".")
    found = [
        (len(place), number)
        for number, floor in enumerate(HOUSE)
        for place in floor.modules
        if name == place or (place and within(name, place))
    ]
    return max(found)[1] if found else None


def may_import(module: str, package: str) -> bool:
    number = number_of(module)
    assert number is not None
    floor, name = HOUSE[number], module.removeprefix(f"{PACKAGE}.")
    return package in (*TYPING, *floor.packages) or any(
        package in packages for place, packages in floor.others.items() if within(name, place)
    )


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
    """The imports of `source`, the text of `module`, that are not allowed."""
    floor = number_of(module)
    if floor is None:
        return [f"{module} is on no floor: give it a place in HOUSE"]
    if module == PACKAGE:
        return []
    found = []
    for name, line in imports(source, module, package=package, modules=modules):
        where, top = f"{module}, line {line}", name.partition(".")[0]
        if top == PACKAGE:
            other = number_of(name)
            if other is None:
                found.append(f"{where}: {name} is on no floor")
            elif other > floor:
                found.append(f"{where}: {name} is on floor {other}, above {floor}")
        elif top not in sys.stdlib_module_names and not may_import(module, top):
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


def test_no_two_modules_import_each_other() -> None:
    """Neither at import nor later: a cycle inside a function is a cycle as well."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        package = path.name == "__init__.py"
        found = imports(path.read_text(), module, package=package, modules=frozenset(MODULES))
        graph[module] = {name for name, _ in found if name in MODULES}
    assert [(a, b) for a in graph for b in graph[a] if a < b and a in graph.get(b, set())] == []


def test_the_broker_does_not_know_what_responses_and_applications_are() -> None:
    """They stand below it only because it is not for them: it is a broker for any framework."""
    refused = {f"{PACKAGE}.{name}" for name in ("app", "context", "request", "response", "routing")}
    for module, path in MODULES.items():
        if within(module, f"{PACKAGE}.broker"):
            package = path.name == "__init__.py"
            found = imports(path.read_text(), module, package=package, modules=frozenset(MODULES))
            assert [name for name, _ in found if name in refused] == [], module


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    refused = {"utils", "helpers", "types", "constants"}
    assert [module for module in MODULES if refused & set(module.split("."))] == []


# That a fault is found.

KNOWN = frozenset(MODULES)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        *(
            ("streaming.stream", source)
            for source in (
                "from ..app import App",
                "from .. import app",
                "from .. import sse, app",
                "import vento_wsgi.app",
                "import json, vento_wsgi.app as a",
                "from vento_wsgi.app import App",
                "from vento_wsgi import app",
                "from vento_wsgi import Event",
                "from .. import Event",
                "import vento_wsgi",
                "from vento_wsgi import *",
                "def later():\n    from ..app import App",
                "if False:\n    from ..app import App",
                "try:\n    from ..app import App\nexcept ImportError:\n    pass",
                "class A:\n    def a(self):\n        import vento_wsgi.app",
                "import importlib\nimportlib.import_module('vento_wsgi.app')",
                "__import__('vento_wsgi.app')",
                "from ..response import Response",
                "import redis",
            )
        ),
        ("streaming.ticker", "from .stream import Stream"),
        ("broker.backends.redis.event_log", "from ....middleware.cors import cors"),
        ("broker.backends.redis.event_log", "from .... import middleware"),
        ("broker.backends.redis.event_log", "from ....server.run import run"),
        ("app", "from .server.run import run"),
        ("app", "from .server import run"),
        ("app", "from .cli import main"),
        ("response", "from .broker.subscription import Subscription"),
        ("context", "from .broker import Subscription"),
        ("sse", "from .streaming.stream import Stream"),
        ("sse", "import werkzeug"),
        ("sse", "from werkzeug.http import http_date"),
        ("sse", "import gevent"),
        ("app", "import gevent"),
        ("app", "def f():\n    from gevent import sleep"),
        ("app", "from gevent.event import Event"),
        ("app", "import gunicorn"),
        ("cli", "import gevent"),
        ("broker", "import redis"),
        ("broker.backends.sqlite.event_log", "import redis"),
        ("contrib.flask", "import django"),
        ("server", "import numpy"),
        ("surprise", ""),
        ("app", "from .surprise import x"),
    ],
)
def test_an_import_that_is_not_allowed_is_found(module: str, source: str) -> None:
    known = KNOWN | {"vento_wsgi.surprise"}
    assert len(faults(source, f"{PACKAGE}.{module}", modules=known)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app", "from .streaming.stream import Stream\nfrom . import sse\nimport werkzeug.http"),
        ("app", "from .routing import Router\nfrom vento_wsgi.bodies.sources import encode"),
        ("sse", "import json\nfrom collections.abc import Iterator\nfrom .logs import x"),
        ("sse", "from _typeshed.wsgi import WSGIEnvironment"),
        ("streaming.turns", "import gevent\nfrom gevent.queue import Queue"),
        ("broker.backends.redis.event_log", "import redis\nfrom ....sse import Event"),
        ("server.worker", "import gunicorn.workers.ggevent, gevent\nfrom ..app import App"),
        ("cli", "from . import terminal\nfrom .server.run import run"),
        ("contrib.flask", "import flask\nimport vento_wsgi"),
    ],
)
def test_an_import_that_goes_down_is_allowed(module: str, source: str) -> None:
    assert faults(source, f"{PACKAGE}.{module}", modules=KNOWN) == []


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
