"""What a client sends, well-formed or not, on both workers."""

from __future__ import annotations

import pytest
from conformance.differential.cases import REQUESTS, Case, cases_of
from conformance.differential.workers import Pair, compare

CASES = cases_of(*REQUESTS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_workers_do_the_same(pair: Pair, case: Case, http_parser: str) -> None:
    compare(pair, case, http_parser)
