"""Every code block of the README runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from vento_wsgi import decode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if line
]


def app_client(code: str) -> Client:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    for name, function in names.items():
        if name.startswith("test_"):
            function()
    return Client(names["app"])


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


def pulse_is_a_stream(client: Client) -> None:
    assert client.head("/pulse").content_type.startswith("text/event-stream")


def count_is_tested(client: Client) -> None:
    assert client.head("/count").status_code == 200


CHECKS = [
    events_count_to_five,
    order_seven_has_left,
    scores_are_events,
    reports_are_downloads,
    people_are_rows,
    letters_become_upper,
    both_answer,
    ticks_are_limited,
    news_are_shared,
    count_is_tested,
    pulse_is_a_stream,
]


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_each_python_block_is_an_application_that_does_what_it_says(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    CHECKS[number](app_client(PYTHON[number]))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_one_that_can_be_given(command: str, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(PYTHON[0])
    program, *arguments = shlex.split(command)
    if program == "make":
        check = ["make", "-C", str(ROOT), "-n", *arguments]
    elif program == "gunicorn":
        check = [sys.executable, "-m", "gunicorn", "--check-config", *arguments]
    else:
        assert program == "vento-wsgi"
        looks = arguments[0] in ("doctor", "top")
        given = [*arguments, "--help"] if looks else ["routes", arguments[-1]]
        check = [sys.executable, "-m", "vento_wsgi", *given]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
