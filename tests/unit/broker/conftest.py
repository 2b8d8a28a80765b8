"""A Redis for the tests of a module that use one."""

from collections.abc import Iterator

import pytest
from support.logs import RedisServer


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start("--appendfsync", "no")
    yield server
    server.stop()
