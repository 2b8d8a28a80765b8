"""Where the records of a server's streams go, and that no client can forge one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.servers import Running, connect, eventually, serve

STREAM_WORKER, GEVENT = "gunicorn-StreamWorker", "gunicorn-gevent"


# Servers.


@contextmanager
def serving(
    tmp: Path, server: str = STREAM_WORKER, *options: str, how: str = "", accesslog: bool = True
) -> Iterator[Running]:
    env = {"LOGGED": how, "LOGGED_FILE": str(tmp / "records"), "VENTO_DRAIN_WINDOW": "0.1"}
    options = ("-c", "python:vento_wsgi.server.config", *options)
    if accesslog and server.startswith("gunicorn"):
        options = (*options, "--access-logfile", "-")
    if not server.startswith("gunicorn"):
        options = ()
    with serve(server, "apps.logged:app", tmp=tmp, env=env, options=options) as running:
        yield running


def ask(running: Running, target: str, *fields: str) -> None:
    with connect(running) as raw:
        raw.ask("GET", target, "Connection: close", *fields)
        raw.read_rest()


def records(tmp: Path) -> list[dict[str, Any]]:
    path = tmp / "records"
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def ours(tmp: Path) -> list[dict[str, Any]]:
    return [record for record in records(tmp) if record["name"].startswith("vento_wsgi")]


def check_printable(log: bytes) -> None:
    text = log.decode()  # and so it is Unicode
    assert "forged" in text
    for line in text.split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("[2026-01-01]")


QUOTED = "%0A[2026-01-01]%20[1]%20[ERROR]%20forged%0D%1B[31m%00%C2%85%E2%80%A8%E2%80%AE%ED%A0%80%FF"


@pytest.mark.parametrize("server", [STREAM_WORKER, GEVENT, "gevent-pywsgi", "wsgiref"])
def test_nothing_that_a_client_sends_is_a_line_of_a_log(tmp_path: Path, server: str) -> None:
    """Path, query, exceptions that quote them, header fields, and names of users."""
    access = "%(h)s %(u)s %(r)s %(U)s %(q)s %(f)s %(a)s %({x-a}i)s %({path_info}e)s"
    with serving(tmp_path, server, "--access-logformat", access) as running:
        paths = (
            f"/old/a{QUOTED}",
            f"/nothing{QUOTED}",
            f"/fails/1?why=a{QUOTED}",
            f"/raises?why=a{QUOTED}",
        )
        user = "Authorization: Basic YQpbMjAyNi0wMS0wMV0gZm9yZ2VkOmI="  # a\n[2026-01-01] forged
        for path in paths:
            # servers refuse control characters of ASCII there
            ask(running, path, "X-A: forged\x9b2J", user, "User-Agent: \xe2\x80\xae")
        eventually(lambda: running.log().count("failed") >= 3, explain=running.log)
    log = b"\n".join(
        line
        for line in running.log_path.read_bytes().split(b"\n")
        # the access logs of other servers are theirs
        if server.startswith("gunicorn") or b'"GET ' not in line
    )
    check_printable(log)


# Where records go.


FAILURE = "GET /fails/<int:number> failed in mid-stream"


def fail_once(running: Running, *fields: str) -> None:
    ask(running, "/fails/7", "X-Request-ID: abc-1", *fields)


@pytest.mark.parametrize("how", ["", "other", "nobody", "other late", "nobody late"])
@pytest.mark.parametrize("server", [STREAM_WORKER, GEVENT])
def test_where_nobody_has_set_logging_up_records_are_in_gunicorns_error_log_once(
    tmp_path: Path, how: str, server: str
) -> None:
    errors = tmp_path / "errors"
    with serving(tmp_path, server, "--error-logfile", str(errors), how=how) as running:
        if how.endswith("late"):
            ask(running, "/late")
        fail_once(running)
        eventually(lambda: "failed: 4 bytes" in errors.read_text(), explain=errors.read_text)
    log = errors.read_text()
    assert log.count(FAILURE) == 1
    assert log.count("ValueError: because") == 1
    assert log.count("GET /fails/<int:number> failed: 4 bytes, 1 pieces") == 1
    assert "failed" not in running.log()


@pytest.mark.parametrize("how", ["root", "own", "dictionary", "root late", "dictionary late"])
@pytest.mark.parametrize("server", [STREAM_WORKER, GEVENT])
def test_records_reach_the_application_where_it_has_set_logging_up(
    tmp_path: Path, how: str, server: str
) -> None:
    with serving(tmp_path, server, how=how) as running:
        if how.endswith("late"):
            fail_once(running)
            eventually(lambda: FAILURE in running.log())
            ask(running, "/late")
        before = running.log().count(FAILURE)
        fail_once(running)
        ask(running, "/raises")
        eventually(lambda: len(ours(tmp_path)) >= 3, explain=running.log)
    failure, ending, error = ours(tmp_path)
    assert (failure["message"], failure["levelname"]) == (FAILURE, "ERROR")
    assert failure["text"].count("ValueError: because") == 1
    fields = {
        "route": "GET /fails/<int:number>",
        "request_id": "abc-1",
        "reason": "failed",
        "bytes": 4,
        "chunks": 1,
    }
    for record in (failure, ending):
        assert {name: record[name] for name in fields} == fields
        assert 0 <= record["duration"] < 100
    assert ending["name"] == "vento_wsgi.access"
    assert error["message"] == "GET /raises failed"
    assert (error["route"], error["request_id"]) == ("GET /raises", None)
    assert running.log().count(FAILURE) == before


def test_what_gunicorn_logs_goes_on_where_the_application_disables_all_other_loggers(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, STREAM_WORKER, "--timeout=2", how="dictionary") as running:
        fail_once(running)
        eventually(lambda: '"GET /fails/7 HTTP/1.1" 200 4' in running.log(), explain=running.log)
    assert "--timeout 2 ends workers that are only busy" in running.log()


def test_a_file_that_both_write_has_each_record_once(tmp_path: Path) -> None:
    errors = ("--error-logfile", str(tmp_path / "records"))
    with serving(tmp_path, STREAM_WORKER, *errors, how="root") as running:
        fail_once(running)
        eventually(lambda: len(ours(tmp_path)) >= 2, explain=running.log)
    assert len(ours(tmp_path)) == 2
    assert f"[ERROR] {FAILURE}" not in (tmp_path / "records").read_text()


def test_a_request_id_that_the_application_gives_its_records_stays(tmp_path: Path) -> None:
    with serving(tmp_path, how="factory") as running:
        fail_once(running)
        eventually(lambda: len(ours(tmp_path)) >= 2, explain=running.log)
    assert {record["request_id"] for record in ours(tmp_path)} == {"of the factory"}
    assert {record["route"] for record in ours(tmp_path)} == {"GET /fails/<int:number>"}


def test_parked_subscriptions_and_bodies_that_are_too_short_have_fields_as_well(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, how="root") as running:
        with connect(running) as raw:
            raw.request("GET", "/news", "X-Request-ID: \x9bnews")
            assert raw.read_piece() is not None
        eventually(lambda: len(ours(tmp_path)) == 1, explain=running.log)
        ask(running, "/short", "X-Request-ID: short")
        eventually(lambda: len(ours(tmp_path)) == 3, explain=running.log)
    news, short, _ = ours(tmp_path)
    assert (news["route"], news["reason"]) == ("GET /news", "disconnected")
    assert news["request_id"] == r"\x9bnews"
    assert news["bytes"] > 0
    assert (short["route"], short["request_id"], short["reason"]) == (
        "GET /short",
        "short",
        "failed",
    )


def test_endings_are_logged_where_there_is_an_access_log_only(tmp_path: Path) -> None:
    with serving(tmp_path, how="root", accesslog=False) as running:
        fail_once(running)
        ask(running, "/raises")
        eventually(lambda: len(ours(tmp_path)) >= 2, explain=running.log)
    assert "vento_wsgi.access" not in [record["name"] for record in ours(tmp_path)]


FLASK = """
from logging.config import dictConfig

dictConfig({
    "version": 1,
    "formatters": {"default": {"format": "%(levelname)s by Flask: %(message)s"}},
    "handlers": {"wsgi": {
        "class": "logging.StreamHandler",
        "stream": "ext://flask.logging.wsgi_errors_stream",
        "formatter": "default",
    }},
    "root": {"level": "INFO", "handlers": ["wsgi"]},
})

from flask import Flask
from vento_wsgi.contrib.flask import stream

app = Flask(__name__)

@app.get("/fails")
def fails():
    def failing():
        yield "some"
        raise ValueError("because")
    return stream(failing(), "text/plain")
"""

DJANGO = """
from django.conf import settings

settings.configure(
    SECRET_KEY="of the tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    LOGGING={
        "version": 1,
        "disable_existing_loggers": True,
        "formatters": {"short": {"format": "%(levelname)s by Django: %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "short"}},
        "loggers": {LOGGERS},
    },
)

from django.core.wsgi import get_wsgi_application
from django.urls import path
from vento_wsgi.contrib.django import stream

def fails(request):
    def failing():
        yield "some"
        raise ValueError("because")
    return stream(request, failing(), "text/plain")

urlpatterns = [path("fails", fails)]
app = get_wsgi_application()
"""


@pytest.mark.parametrize(
    ("site", "line"),
    [
        (FLASK, "ERROR by Flask: GET /fails failed in mid-stream"),
        (
            DJANGO.replace("LOGGERS", '"": {"handlers": ["console"]}'),
            "ERROR by Django: GET /fails failed in mid-stream",
        ),
        (
            DJANGO.replace(
                "LOGGERS", '"vento_wsgi": {"handlers": ["console"], "propagate": False}'
            ),
            "ERROR by Django: GET /fails failed in mid-stream",
        ),
        (
            DJANGO.replace("LOGGERS", '"django": {"handlers": ["console"]}'),
            "[ERROR] GET /fails failed in mid-stream",
        ),
    ],
    ids=["flask", "django-root", "django-ours", "django-own"],
)
def test_the_logging_of_flask_and_django_has_what_fails_once(
    tmp_path: Path, site: str, line: str
) -> None:
    (tmp_path / "site_app.py").write_text(site)
    with serve(STREAM_WORKER, "site_app:app", cwd=tmp_path, tmp=tmp_path) as running:
        ask(running, "/fails")
        eventually(lambda: line in running.log(), explain=running.log)
    assert running.log().count("failed in mid-stream") == 1
    assert running.log().count("ValueError: because") == 1
