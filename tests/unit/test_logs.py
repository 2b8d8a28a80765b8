"""Log records of streams are printable and one line long, whatever clients send."""

from __future__ import annotations

import builtins
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vento_wsgi.logs import escape, logger, printable
from vento_wsgi.streaming.environ import ROUTE, request_id, route

FORGED = "\n[2026-01-01] [1] [ERROR] forged\r\x1b[31m\x00\x07\x7f\x85\x9b\u2028\u202e\u200b\ufeff"


# One text.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /étage/日本", "GET /étage/日本"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x1b[31m\x7f", r"\x1b[31m\x7f"),
        ("\x85\x9b2J", r"\x85\x9b2J"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\ud800\udcff", r"\ud800\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("a" * 5000, "a" * 1000 + "…"),
        ("\n" * 5000, r"\n" * 500 + "…"),
    ],
)
def test_a_text_is_printable_and_not_too_long(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_whatever_the_text_is_it_is_one_printable_line_and_stays_so(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    shown.encode()


@given(st.binary(), st.text(st.characters(codec="latin-1"), min_size=1))
def test_a_stream_without_a_route_is_called_by_its_path_in_printable_ascii(
    path: bytes, method: str
) -> None:
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path.decode("latin-1")}
    name = route(environ)
    assert name.isprintable()
    assert len(name) <= 201
    assert " " not in name.removeprefix(printable(method, 200)).strip()


def test_a_stream_with_a_route_is_called_by_it() -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a\n", ROUTE: "GET /<path:name>"}
    assert route(environ) == "GET /<path:name>"


def test_a_request_id_is_printable() -> None:
    assert request_id({}) is None
    assert request_id({"HTTP_X_REQUEST_ID": "a\x1b[31m"}) == r"a\x1b[31m"


# One record.


def logged(caplog: pytest.LogCaptureFixture, *args: Any, **options: Any) -> logging.LogRecord:
    with caplog.at_level(logging.INFO):
        logger("vento_wsgi.tests").error(*args, **options)
    return caplog.records[-1]


def test_what_a_record_says_is_printable(caplog: pytest.LogCaptureFixture) -> None:
    record = logged(caplog, "%s: %d of %s", f"a{FORGED}", 5, OSError(FORGED))
    assert record.getMessage().isprintable()
    assert record.msg == "%s: %d of %s"
    assert len(logged(caplog, "%s", "x" * 10**6).getMessage()) == 1001


def test_fields_are_attributes_that_are_printable(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"route": "GET /\n", "bytes": 5, "request_id": None, "name": "not this"}
    record: Any = logged(caplog, "said", extra=fields)
    assert (record.route, record.bytes, record.request_id) == (r"GET /\n", 5, None)
    assert record.name == "vento_wsgi.tests"


def fail(message: str) -> None:
    try:
        raise KeyError
    except KeyError as error:
        raise ValueError(message) from error


def traceback_of(caplog: pytest.LogCaptureFixture, message: str) -> str:
    try:
        fail(message)
    except ValueError:
        return logging.Formatter().format(logged(caplog, "failed", exc_info=True))
    return ""


def test_a_traceback_has_no_line_that_could_be_a_record(caplog: pytest.LogCaptureFixture) -> None:
    text = traceback_of(caplog, f"boom{FORGED}\nTraceback")
    assert all(line.isprintable() for line in text.split("\n"))
    begins = [line.split(" ")[0] for line in text.split("\n") if line and line[0] != " "]
    assert begins == ["failed", "Traceback", "KeyError", "The", "Traceback", "ValueError:"]


def test_a_traceback_without_anything_to_escape_is_pythons_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = traceback_of(caplog, "boom")
    assert caplog.records[-1].exc_info is not None
    assert text == "failed\n" + logging.Formatter().formatException(caplog.records[-1].exc_info)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_a_group_of_errors_has_no_line_that_could_be_a_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = vars(builtins)["ExceptionGroup"](f"all{FORGED}", [ValueError(FORGED)])
    text = logging.Formatter().format(logged(caplog, "failed", exc_info=group))
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("[2026") for line in text.split("\n"))


class Noted(Exception):
    """An exception with notes, as BaseException.add_note() of Python 3.11 makes them."""

    def __init__(self, *notes: str) -> None:
        self.__notes__ = list(notes)


@pytest.mark.parametrize(
    "error",
    [
        Noted(f"query:{FORGED}", FORGED, " \n[2026-01-01] forged"),
        SyntaxError("invalid", (f"page{FORGED}", 1, 1, f"text{FORGED}")),
        SyntaxError("invalid", (f"page{FORGED}", None, None, None)),
    ],
    ids=["notes", "a file name", "a file name without a line"],
)
@pytest.mark.parametrize("where", ["itself", "a cause", "in a group"])
def test_no_part_of_an_error_could_be_a_record(
    caplog: pytest.LogCaptureFixture, error: Exception, where: str
) -> None:
    top: BaseException = error
    if where == "a cause":
        top = KeyError("other")
        top.__cause__ = error
    elif where == "in a group":
        if sys.version_info < (3, 11):
            return
        top = ExceptionGroup("all", [error])  # noqa: F821
    text = logging.Formatter().format(logged(caplog, "failed", exc_info=top))
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("[2026") for line in text.split("\n"))
    if sys.version_info >= (3, 11) or not isinstance(error, Noted):
        assert "forged" in text


def test_a_record_that_cannot_be_formatted_is_for_its_handlers_to_report() -> None:
    class Bad:
        def __str__(self) -> str:
            raise ValueError

    record = logging.LogRecord("a", logging.INFO, "", 1, "%s", (Bad(),), None)
    assert escape(record)
