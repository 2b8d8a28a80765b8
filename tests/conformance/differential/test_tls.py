"""A part of the cases over TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apps.legacy import content
from conformance.differential.cases import SENT, Case, bodies, failures, make, named
from conformance.differential.workers import Pair, compare, finish, run_pair
from support.servers import Body, connect
from support.tls import Certificate


@pytest.fixture(scope="module")
def secure_pair(
    http_parser: str, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    with run_pair(tmp_path_factory, http_parser, certificate=certificate) as pair:
        yield pair


def secured() -> Iterator[Case]:
    """A part of the cases; without files, which go through the same writes here."""
    for case in bodies():
        if case.says(chunks="|0|5,0,3|100000,10000,100000"):
            yield case
    for case in failures():
        if case.says(error="exception|os|timeout"):
            yield case
    for name in ("a length", "a long length", "chunks", "large chunks", "a bad size"):
        lines, data = SENT[name]
        for how in ("all", "", "4"):
            yield make(lines, method="POST", body="list", chunks="5,3", read=how).sending(data)


@pytest.mark.parametrize(
    "case", [case for case in secured() if "file" not in case.name], ids=lambda case: case.name
)
def test_both_workers_do_the_same_over_tls(secure_pair: Pair, case: Case, http_parser: str) -> None:
    compare(secure_pair, case, http_parser)


def test_a_file_arrives_whole_over_tls(secure_pair: Pair) -> None:
    for server in secure_pair:
        server.new_lines(server.access)
        with connect(server.running) as raw:
            for body, chunks, length in (
                ("file", "8000000", "8000000"),
                ("file", "8000000", ""),
                ("file at 7", "9,11", "10"),
                ("file", "", ""),
            ):
                raw.send(make(body=body, chunks=chunks, **named(length=length)).data)
                raw.read_head()
                start = 7 if body == "file at 7" else 0
                stop = start + int(length or chunks or 0)
                assert raw.read_all() == Body(content(start, stop), complete=True)
            finish(raw)
        sent = [line.split()[-1] for line in server.new_lines(server.access)]
        assert sent == ["8000000", "8000000", "10", "0", "4"]
