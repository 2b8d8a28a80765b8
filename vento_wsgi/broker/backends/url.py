"""URLs of a broker without their passwords, for messages, logs and ``Broker.url``."""

from __future__ import annotations

import re

__all__ = ["Secret", "without_password"]

_SAFE_FIELD = re.compile(r"(?:name|db)=[\w.:/-]*", re.ASCII)
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::[0-9]*)?|", re.ASCII)


def without_password(url: str) -> str:
    """The URL without user, password, and the fields of its query that may hold a password.

    Only the scheme is kept if the URL cannot be parsed reliably, for example because its password
    is not percent-encoded.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme in ("memory", "sqlite"):
        return url
    address, _, query = rest.partition("?")
    authority, slash, path = address.partition("/")
    host = authority.rpartition("@")[2]
    if "@" in path + query or "#" in path + query or not _HOST.fullmatch(host):
        return f"{scheme}://…"
    fields = [field for field in query.split("&") if _SAFE_FIELD.fullmatch(field)]
    return f"{scheme}://{host}{slash}{path}{'?' * bool(fields)}{'&'.join(fields)}"


class Secret(str):
    """A password: a str whose repr(), str() and format() do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"
