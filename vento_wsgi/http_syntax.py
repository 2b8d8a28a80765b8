"""The syntax of status lines, header fields and dates (RFC 9112, section 4; RFC 9110, section 5).

A name or a value with a line break in it would become a second field, and so would a status.
So each is checked by itself, before the server is given any of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

__all__ = ["check", "date", "is_legal"]

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = r"[\t\x20-\x7e\x80-\xff]*"
_STATUS = rf"[1-9][0-9][0-9] {_VALUE}"

_HEAD = re.compile(rf"{_STATUS}(?:\n{_NAME}\0{_VALUE})*")

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
    # one match for all of them costs a fifth of one each; this runs for every response
    text = "\n".join([status, *map("\0".join, fields)])
    # all line breaks and NULs in it are those of the joins, so nothing passes for two fields
    if _HEAD.fullmatch(text) and text.count("\n") == text.count("\0") == len(fields):
        return
    if not re.fullmatch(_STATUS, status):
        raise ValueError(f"the status {status!r} cannot be sent: it is a code and a reason")
    wrong = next(name for name, value in fields if not is_legal(name, value))
    raise ValueError(f"the header {wrong!r} cannot be sent: its name or value is not legal")


def is_legal(name: str, value: str) -> bool:
    """Whether a field can have this name and this value."""
    return bool(re.fullmatch(_NAME, name) and re.fullmatch(_VALUE, value))


def date(value: str | None) -> datetime | None:
    """An HTTP-date, or None where `value` is none: recipients have to ignore it then."""
    if value is None or not _DATE.fullmatch(value):
        return None
    try:
        return parsedate_to_datetime(value).replace(tzinfo=timezone.utc)
    except ValueError:  # such as the 30th of February
        return None
