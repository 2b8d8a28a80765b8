"""Each unit test has a ticker of its own: one of gevent's loop would not run for the others."""

import pytest

from vento_wsgi.streaming import ticker


@pytest.fixture(autouse=True)
def own_ticker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "_ticker", None)
