"""Both workers, each once a module and once for each of gunicorn's parsers."""

from collections.abc import Iterator

import pytest
from conformance.differential.better import PARSERS
from conformance.differential.workers import OURS, Pair, Server, run_pair
from support.servers import STOCK


@pytest.fixture(scope="module", params=PARSERS)
def http_parser(request: pytest.FixtureRequest) -> str:
    """A value of gunicorn's setting `http_parser`."""
    parser: str = request.param
    return parser


@pytest.fixture(scope="module")
def pair(http_parser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with run_pair(tmp_path_factory, http_parser) as pair:
        yield pair


@pytest.fixture(params=[STOCK, OURS])
def server(request: pytest.FixtureRequest, pair: Pair) -> Server:
    return pair[[STOCK, OURS].index(request.param)]


@pytest.fixture
def ours(pair: Pair) -> Server:
    return pair[1]
