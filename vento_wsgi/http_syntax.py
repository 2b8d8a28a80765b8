"""The syntax of status lines, header fields and dates (RFC 9112, section 4; RFC 9110, section 5).

A line break in a status, a name or a value would add a field to the response. So all of them are
checked before the server gets them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache

__all__ = ["TOKEN", "VALUE", "check", "date", "is_legal"]

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""The pattern of a token, such as a field name or a method (RFC 9110, section 5.6.2)."""

VALUE = r"[\t\x20-\x7e\x80-\xff]*"
"""The pattern of a field value, in latin-1 (RFC 9110, section 5.5)."""

_NAME = re.compile(TOKEN)
_VALUE = re.compile(VALUE)
_STATUS = re.compile(rf"[1-9][0-9][0-9] {VALUE}")

_YEAR = r"[1-9][0-9]{3}"  # Python takes 0000 for 2000
_TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_DATE = re.compile(
    rf"[A-Z][a-z]+, [0-9]{{2}}(?: [A-Z][a-z]{{2}} {_YEAR}|-[A-Z][a-z]{{2}}-[0-9]{{2}}) "
    rf"{_TIME} GMT"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] {_TIME} {_YEAR}"
)
"""HTTP-date in its three forms (RFC 9110, section 5.6.7): IMF-fixdate, RFC 850, asctime."""


def check(status: str, fields: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError unless a response can have this status and these fields."""
    if not _is_status(status):
        raise ValueError(f"the status {status!r} cannot be sent: write a code and a reason")
    for name, value in fields:
        # most values are printable ASCII, which str tells in a fraction of the pattern's time
        printable = value.isascii() and value.isprintable()
        if not (_is_name(name) and (printable or _VALUE.fullmatch(value))):
            raise ValueError(f"the header {name!r} cannot be sent: its name or value is not legal")


def is_legal(name: str, value: str) -> bool:
    """Whether a field can have this name and this value."""
    return _is_name(name) and _VALUE.fullmatch(value) is not None


@lru_cache(maxsize=256)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=64)
def _is_status(status: str) -> bool:
    return _STATUS.fullmatch(status) is not None


def date(value: str | None) -> datetime | None:
    """The time of an HTTP-date, in UTC. None if `value` is not one: recipients ignore it then."""
    if value is None or not _DATE.fullmatch(value):
        return None
    try:
        return parsedate_to_datetime(value).replace(tzinfo=timezone.utc)
    except ValueError:  # a day that does not exist
        return None
