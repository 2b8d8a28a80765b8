"""Every code block of the README runs."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.servers import ROOT
from werkzeug.test import Client, TestResponse

from vento_wsgi import decode

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if line
]


@contextmanager
def app_client(code: str) -> Iterator[Client]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    try:
        for name, function in tuple(names.items()):
            if name.startswith("test_"):
                function()
        yield Client(names["app"] if "app" in names else django_site(names["urlpatterns"]))
    finally:
        if "broker" in names:
            names["broker"].close()


def django_site(urlpatterns: Any) -> Any:
    from django.conf import settings  # type: ignore[import-untyped]
    from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
    from django.test import override_settings  # type: ignore[import-untyped]

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="of the tests")
    urls: Any = ModuleType("urls")
    urls.urlpatterns = urlpatterns
    application = get_wsgi_application()

    def site(environ: Any, start_response: Any) -> Any:
        with override_settings(ROOT_URLCONF=urls):
            return application(environ, start_response)

    return site


def events_count_to_five(client: Client) -> None:
    response = client.get("/events")
    assert [event.data for event in decode([response.data]) if event.data] == list("12345")


def order_seven_has_left(client: Client) -> None:
    assert client.post("/orders/6/ship").json == {"shipped": 6}
    refused = client.post("/orders/7/ship")
    assert refused.status_code == 409
    assert refused.json is not None
    assert refused.json["detail"] == "Order 7 has left already."


def scores_are_events(client: Client) -> None:
    events = [event for event in decode([client.get("/scores").data]) if event.data is not None]
    assert [(event.event, event.data) for event in events] == [
        ("goal", '{"home":1,"away":0}'),
        (None, '{"home":1,"away":1}'),
        (None, "full time"),
    ]


def news_are_told_from_where_one_left_off(client: Client) -> None:
    first, *others = (
        client.post(f"/news/{topic}", json={"in": topic})
        for topic in ("sports", "world/north", "weather", "sports")
    )
    assert first.status_code == 201
    assert first.json is not None
    comes_back = {"Last-Event-ID": first.json["id"]}
    with client.get("/news", headers=comes_back, buffered=False) as response:
        events = (event for event in decode(response.iter_encoded()) if event.data is not None)
        assert [next(events).data for _ in range(2)] == ['{"in":"world/north"}', '{"in":"sports"}']
    assert len({other.json["id"] for other in others if other.json}) == 3


def reports_are_downloads(client: Client) -> None:
    Path("reports").mkdir()
    Path("reports/q3.csv").write_text("a,b\n")
    found: TestResponse = client.get("/reports/q3.csv")
    assert found.data == b"a,b\n"
    assert found.headers["Content-Disposition"] == "attachment; filename=q3.csv"
    assert client.get("/reports/../hello.py").status_code == 404


def people_are_rows(client: Client) -> None:
    found = client.get("/people.csv")
    assert found.content_type == "text/csv; charset=utf-8"
    assert found.text == '"name","born"\r\n"Ada",1815\r\n"\'=SUM(A1)",-5\r\n'
    assert client.get("/people").text.startswith('{"name":"Ada","born":1815}\n')


def letters_become_upper(client: Client) -> None:
    assert client.post("/upper", data="abc").data == b"ABC"
    assert client.post("/upper", data=b"a" * (1024 * 1024 + 1)).status_code == 413


def both_answer(client: Client) -> None:
    assert client.get("/").headers["Server-Timing"].startswith("app;dur=")
    assert client.get("/old/any").text == "any WSGI application"


def ticks_are_limited(client: Client) -> None:
    assert b"data: 2" in client.get("/ticks").data


def news_are_shared(client: Client) -> None:
    origin = "https://app.example.com"
    found = client.get("/news", headers={"Origin": origin})
    assert found.headers["Access-Control-Allow-Origin"] == origin


def prices_are_compressed(client: Client) -> None:
    found = client.get("/prices", headers={"Accept-Encoding": "gzip"})
    assert found.content_encoding == "gzip"
    assert gzip.decompress(found.data).endswith(b'{"symbol":"ACME","price":39}\n\n')


def scores_are_counted(client: Client) -> None:
    found = client.get("/scores")
    assert found.content_type == "text/event-stream"
    data = [event.data for event in decode([found.data]) if event.data is not None]
    assert data in (['{"home":0}', '{"home":1}', '{"home":2}'], ["0", "1", "2"])


def it_knows_where_it_is(client: Client) -> None:
    assert client.get("/live/where").text == "http://localhost/live/where"


def pulse_is_a_stream(client: Client) -> None:
    assert client.head("/pulse").content_type.startswith("text/event-stream")


def count_is_tested(client: Client) -> None:
    assert client.head("/count").status_code == 200


def jobs_are_measured(client: Client) -> None:
    client.get("/jobs/17").get_data()
    ended = 'vento_streams_ended_total{reason="exhausted",route="GET /jobs/<int:id>"} 1.0'
    assert ended in client.get("/metrics").text


CHECKS = [
    events_count_to_five,
    order_seven_has_left,
    scores_are_events,
    news_are_told_from_where_one_left_off,
    reports_are_downloads,
    people_are_rows,
    letters_become_upper,
    both_answer,
    ticks_are_limited,
    news_are_shared,
    prices_are_compressed,
    scores_are_counted,
    scores_are_counted,
    scores_are_counted,
    it_knows_where_it_is,
    count_is_tested,
    jobs_are_measured,
    pulse_is_a_stream,
]


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_each_python_block_is_an_application_that_does_what_it_says(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with app_client(PYTHON[number]) as client:
        CHECKS[number](client)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_one_that_can_be_given(command: str, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(PYTHON[0])
    program, *arguments = shlex.split(command)
    env = {
        "VENTO_BROKER_URL": f"sqlite:///{tmp_path / 'events.db'}",
        "LIVE_BOARD": str(tmp_path / "board.db"),
    }
    if program == "make":
        check = ["make", "-C", str(ROOT), "-n", *arguments]
    elif program == "gunicorn":
        check = [sys.executable, "-m", "gunicorn", "--check-config", *arguments]
    elif program == "python":
        check = [sys.executable, *arguments]
    else:
        assert program == "vento-wsgi"
        looks = arguments[0] in ("doctor", "top")
        given = [*arguments, "--help"] if looks else ["routes", arguments[-1]]
        check = [sys.executable, "-m", "vento_wsgi", *given]
    done = subprocess.run(
        check,
        cwd=ROOT if "examples." in command else tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
