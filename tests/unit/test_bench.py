"""The bench: its report follows from the samples, and its targets name what is measured."""

import json
from xml.etree import ElementTree

import pytest
from bench.contenders import CONTENDERS
from bench.figures import Sample
from bench.measure import ROWS
from bench.picture import picture
from bench.report import TARGETS, Results


def event(cpu: float, late: float) -> Sample:
    return {
        "cpu_seconds": cpu,
        "p50_seconds": late / 2,
        "p99_seconds": late,
        "came": 1.0,
        "client": 0.1,
    }


@pytest.fixture
def results() -> Results:
    found = Results()
    for cpu in (20e-6, 24e-6, 22e-6):
        found.add("fanout", "raw", event(cpu, 0.010))
        found.add("fanout", "ours", event(cpu / 4, 0.008))
    found.add("idle", "raw", {"bytes_each": 16384.0})
    found.add("idle", "ours", {"bytes_each": 512.0})
    found.add(
        "many",
        "ours",
        {
            "bytes": 2.0**26,
            "bytes_each": 600.0,
            "subscribers": 1e5,
            "cpu_seconds": 0.5,
            "seconds": 0.6,
        },
    )
    return found


def test_the_table_has_each_figure_in_its_unit_and_as_a_ratio(results: Results) -> None:
    lines = results.markdown().splitlines()
    assert "| vento_wsgi, StreamWorker | 5.5 µs **0.25** | 0.50 KB **0.03** | 64.0 MB |" in lines
    assert "| vento_wsgi, StreamWorker | 4.00 | 8.00 | 100 | 10 | -1.00 | -2.00 |" in lines
    assert "| vento_wsgi, StreamWorker | 100,000 | 0.59 | 500 | 600 |" in lines


def test_a_target_is_met_by_the_median_of_the_ratios(results: Results) -> None:
    met = {(row, what): measured <= limit for row, what, limit, measured in results.targets()}
    assert met == {("fanout", "ours / raw"): True, ("idle", "ours, KB"): True}


def test_a_target_compares_any_two_contenders_of_a_row() -> None:
    results = Results()
    for contender, cpu in (("flask", 200e-6), ("flask-streamworker", 160e-6)):
        results.add("hello", contender, {"cpu_seconds": cpu})
    ((row, what, limit, measured),) = results.targets()
    assert (row, what, limit) == ("hello", "flask-streamworker / flask", 0.75)
    assert measured == pytest.approx(0.8)


def test_contenders_and_targets_name_rows_and_contenders_that_exist() -> None:
    rows = {row.name for row in ROWS}
    contenders = {contender.name: contender.rows for contender in CONTENDERS}
    assert len(contenders) == len(CONTENDERS)
    assert rows == {name for names in contenders.values() for name in names}
    for target in TARGETS:
        for name in filter(None, (target.contender, target.other)):
            assert target.row in contenders[name]


def test_the_json_has_the_rounds_and_what_follows_from_them(results: Results) -> None:
    rows = json.loads(json.dumps(results.json()))["rows"]
    ours = rows["fanout"]["contenders"]["ours"]
    assert ours["cpu_seconds"] == pytest.approx(5.5e-6)
    assert ours["p99_seconds_added"] == pytest.approx(-0.002)
    assert len(ours["rounds"]) == 3
    assert rows["many"]["contenders"]["ours"]["subscribers"] == 1e5


def test_the_picture_has_a_panel_for_each_row_that_raw_is_in(results: Results) -> None:
    svg = picture(results, "a note " * 60)
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    titles = [row.title for row in ROWS if row.title in texts]
    assert titles == [row.title for row in ROWS if row.name in ("fanout", "idle")]
    assert max(len(text) for text in texts if text.startswith("a note")) <= 120


def test_who_failed_in_a_row_is_named_and_has_no_figures(results: Results) -> None:
    results.drop("fanout", "ours", "a stream ended")
    assert results.contenders("fanout") == ["raw"]
    assert "- left out: fanout: ours: a stream ended" in results.markdown()
