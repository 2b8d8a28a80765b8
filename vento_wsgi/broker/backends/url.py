"""Urls of a broker as they may be shown: in messages, in logs, as ``Broker.url``."""

from __future__ import annotations

import re

__all__ = ["Secret", "without_password"]

_SAFE_FIELD = re.compile(r"(?:name|db)=[\w.:/-]*", re.ASCII)
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::[0-9]*)?|", re.ASCII)


def without_password(url: str) -> str:
    """The url without user, password and the fields of its query that may hold one.

    Only the scheme is left of a url that cannot be taken apart for certain, such as one with a
    password that is not percent-encoded.
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
    """A password. It is used as the text that it is, and does not show in a repr or a message."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"
