"""The table of differences names nothing that the cases do not show."""

from __future__ import annotations

import pytest
from conformance.differential.better import BETTER, Better
from conformance.differential.cases import REQUESTS, RESPONSES, cases_of

CASES = cases_of(*RESPONSES, *REQUESTS)


@pytest.mark.parametrize("better", BETTER, ids=lambda better: better.why[:50])
def test_each_difference_is_among_the_cases(better: Better) -> None:
    assert any(map(better.when, CASES.values()))
