"""The syntax of status lines, header fields and dates (RFC 9112, section 4; RFC 9110, section 5).

A line break in a status, a name or a value would add a field to the response. So all of them are
checked before the server gets them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

__all__ = ["TOKEN", "VALUE", "check", "date", "is_legal"]

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""The pattern of a token, such as a method or the name of a field (RFC 9110, section 5.6.2)."""

VALUE = r"[\t\x20-\x7e\x80-\xff]*"
"""The pattern of a field value, in latin-1 (RFC 9110, section 5.5)."""

_STATUS = rf"[1-9][0-9][0-9] {VALUE}"

_HEAD = re.compile(rf"{_STATUS}(?:\n{TOKEN}\0{VALUE})*")

_YEAR = r"[1-9][0-9]{3}"  # Python takes 0000 for 2000
_TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_DATE = re.compile(
    rf"[A-Z][a-z]+, [0-9]{{2}}(?: [A-Z][a-z]{{2}} {_YEAR}|-[A-Z][a-z]{{2}}-[0-9]{{2}}) "
    rf"{_TIME} GMT"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] {_TIME} {_YEAR}"
)
"""HTTP-date in its three forms (RFC 9110, section 5.6.7): IMF-fixdate, RFC 850, asctime."""


def check(status: str, fields: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError unless a response can have this status and these fields."""
    # this runs for every response: one match for all fields costs a fifth of one match for each
    text = "\n".join([status, *map("\0".join, fields)])
    # the counts show that all line breaks and NULs are from the joins, none from a field
    if _HEAD.fullmatch(text) and text.count("\n") == text.count("\0") == len(fields):
        return
    if not re.fullmatch(_STATUS, status):
        raise ValueError(f"the status {status!r} cannot be sent: write a code and a reason")
    wrong = next(name for name, value in fields if not is_legal(name, value))
    raise ValueError(f"the header {wrong!r} cannot be sent: its name or value is not legal")


def is_legal(name: str, value: str) -> bool:
    """Whether `name` is a valid field name and `value` a valid field value."""
    return bool(re.fullmatch(TOKEN, name) and re.fullmatch(VALUE, value))


def date(value: str | None) -> datetime | None:
    """Parse an HTTP-date; None if `value` is invalid, which recipients must ignore."""
    if value is None or not _DATE.fullmatch(value):
        return None
    try:
        return parsedate_to_datetime(value).replace(tzinfo=timezone.utc)
    except ValueError:  # a day that does not exist
        return None
