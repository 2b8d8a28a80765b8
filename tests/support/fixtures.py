"""Fixtures that a test module makes for itself: ``server = served("apps.news:app", STOCK)``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.servers import TESTS, Running, serve


def served(
    target: str,
    *servers: str,
    cwd: Path = TESTS,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Any:
    """A fixture: `target` on each of `servers`, once a module. Its tests run for every server."""

    @pytest.fixture(scope="module", params=servers)
    def running(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Running]:
        tmp = tmp_path_factory.mktemp("served")
        with serve(request.param, target, tmp=tmp, cwd=cwd, env=env, options=options) as running:
            yield running

    return running
