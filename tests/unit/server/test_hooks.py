"""Private names of gunicorn and gevent that are used here: each that is missing is named."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

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
