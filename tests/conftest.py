"""Settings of all tests, and the fixtures that many of them use."""

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.gates import Gate
from support.tls import Certificate, make_certificate

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# No example fails for the time that it takes: a busy machine is slow.
settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")

numbers = count()


@pytest.fixture
def name() -> str:
    """The name of a stream or a topic that no other test of this process has."""
    return f"name{next(numbers)}"


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from support.chromium import chromium  # playwright takes a while to import

    with chromium() as browser:
        yield browser
