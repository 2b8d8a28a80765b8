"""apps/engine.py on servers of each kind, each once a module."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.engine import GEVENT, THREADS, Server
from support.servers import STREAM_WORKER, serve
from support.tls import Certificate


@contextmanager
def started(name: str, tmp: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    # an access log, so that the lines that the framework itself logs are there
    options = ["--access-logfile=/dev/null"] if name == STREAM_WORKER else []
    with serve(
        name, "apps.engine:app", tmp=tmp, options=options, certificate=certificate
    ) as running:
        yield Server(running)


@pytest.fixture(scope="module", params=GEVENT)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("engine")) as server:
        yield server


@pytest.fixture(scope="module", params=GEVENT)
def secured(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: Certificate,
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("engine"), certificate) as server:
        yield server


@pytest.fixture(scope="module", params=THREADS)
def threaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("engine")) as server:
        yield server
