"""Multipart bodies: parts one after the other (RFC 2046), or each replacing the one before it.

The delimiter is sent directly after each part, not before the next, because a client recognises
the end of a part by it. With multipart/x-mixed-replace, browsers show a frame only once they have
the headers of the next one (https://crbug.com/527446), so these headers are sent with the
delimiter. All frames therefore have the same type, and no Content-Length: the length of the next
frame is not known yet.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..http_syntax import is_legal
from .formatted import Formatted, as_bytes, each

__all__ = ["multipart_mixed"]

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")


def multipart_mixed(
    parts: Iterable[bytes | str | tuple[Mapping[str, str], bytes | str]],
    *,
    part_type: str = "application/octet-stream",
    replace: bool = False,
    boundary: str | None = None,
) -> Formatted:
    """A multipart body: multipart/mixed, or multipart/x-mixed-replace.

    parts: each is a content, of the type `part_type`, or a pair of headers and content.
    replace: each part replaces the one before it, like the frames of a camera in
        ``<img src=…>``. Such parts cannot have headers of their own.
    boundary: 1 to 70 characters (RFC 2046, section 5.1.1); random by default.

    Raises BodyError if `parts` is not iterable, ValueError if the boundary or type is invalid.
    """
    if boundary is not None and not _BOUNDARY.fullmatch(boundary):
        raise ValueError(f"a boundary has 1 to 70 characters by RFC 2046, not {boundary!r}")
    given, boundary = boundary is not None, boundary or secrets.token_hex(16)
    delimiter = f"\r\n--{boundary}".encode()
    default = _head({"Content-Type": part_type})
    following = delimiter + (default + b"\r\n\r\n" if replace else b"")

    def encode(part: Any) -> bytes:
        head, content = part if isinstance(part, tuple) else (None, part)
        data = as_bytes(content)
        if given and delimiter in b"\r\n" + data:
            raise ValueError("it contains the boundary: leave boundary= out")
        if replace:
            if head is not None:
                raise ValueError("with replace=True parts have no headers of their own")
            return data + following
        head = default if head is None else _head(head)
        return b"%b\r\nContent-Length: %d\r\n\r\n%b%b" % (head, len(data), data, following)

    def run(parts: Iterator[Any]) -> Iterator[bytes]:
        before = following[2:]
        for part in each(parts, encode, "a part"):
            yield before + part
            before = b""
        yield before + (delimiter if replace else b"") + b"--\r\n"

    kind = "x-mixed-replace" if replace else "mixed"
    value = f'"{boundary}"' if given else boundary
    return Formatted("multipart_mixed", parts, run, f"multipart/{kind}; boundary={value}")


def _head(headers: Mapping[str, str]) -> bytes:
    """The headers of a part, each preceded by CRLF."""
    for name, value in headers.items():
        if not is_legal(name, value):
            raise ValueError(f"the header {name!r} cannot be sent: {value!r}")
    return "".join(f"\r\n{name}: {value}" for name, value in headers.items()).encode("latin-1")
