"""Import the WSGI application of "module:app"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..app import App
from ..exceptions import AppNotFound

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["check", "load", "search"]


def search(folder: str) -> None:
    """Put `folder` first in sys.path. Raises AppNotFound if it is no folder."""
    if not Path(folder).is_dir():
        raise AppNotFound(f"--app-dir: there is no folder {folder!r}")
    sys.path.insert(0, str(Path(folder).resolve()))


def _split(target: str) -> tuple[str, str]:
    module, _, name = target.partition(":")
    if module.endswith(".py") or "/" in module:
        stem = module.removesuffix(".py").strip("./").replace("/", ".")
        raise AppNotFound(f"{module!r} is a file: name its module, like '{stem}:{name or 'app'}'")
    return module, name or "app"


def check(target: str) -> None:
    """Raise AppNotFound if the module does not exist. Does not import it: the worker will."""
    module, _ = _split(target)
    top, *inner = module.split(".")
    try:
        found = importlib.util.find_spec(top) if top else None
        for part in inner:
            if found is None or found.submodule_search_locations is None:
                break
            found = PathFinder.find_spec(f"{found.name}.{part}", found.submodule_search_locations)
    except ValueError:  # __main__, which has no spec if it is the command line itself
        found = None
    except KeyError:  # nested folders without __init__.py: only an import can find out
        return
    if found is None or found.name != module:
        raise _no_module(module)


def _no_module(module: str) -> AppNotFound:
    return AppNotFound(
        f"there is no module {module!r} in {sys.path[0] or '.'}: "
        "write module:app, and give its folder with --app-dir if it is another one"
    )


def load(target: str) -> WSGIApplication:
    """Import the application of ``module:app``. Raises AppNotFound, or what the module raises."""
    check(target)
    module, name = _split(target)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise _no_module(module) from error
        raise
    for part in name.split("."):
        if not hasattr(found, part):
            there = [key for key, value in vars(found).items() if _looks_like_app(value)]
            hint = f"; it has {', '.join(there)}" if there else ""
            raise AppNotFound(f"{module!r} has no {name!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise AppNotFound(f"{target!r} is {type(found).__name__}, not a WSGI application")
    return found  # type: ignore[no-any-return]


def _looks_like_app(value: Any) -> bool:
    return isinstance(value, App) or hasattr(value, "wsgi_app")
