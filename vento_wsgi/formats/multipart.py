"""Multipart: parts one after the other (RFC 2046), or each in the place of the one before it.

The type is that of the parts, and the delimiter follows each part at once: a client knows the
end of a part by it. Browsers show a frame only when they have the headers of the next one
(https://crbug.com/527446), so these follow as well; frames thus all have one type, and no
length, which nobody can know in advance.
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
    """The parts of a multipart body: multipart/mixed, or multipart/x-mixed-replace.

    parts: the content of each, of the type `part_type`, or its headers and its content.
    replace: each part takes the place of the one before it, as the frames of a camera do in
        ``<img src=…>``; these are contents alone.
    boundary: up to 70 characters by RFC 2046; a random one by default, which no part contains.

    Raises BodyError if `parts` are none, ValueError on a boundary or a type that is none.
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
                raise ValueError("frames that replace one another have no headers of their own")
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
    """A part's headers, each after its line break."""
    for name, value in headers.items():
        if not is_legal(name, value):
            raise ValueError(f"the header {name!r} cannot be sent: {value!r}")
    return "".join(f"\r\n{name}: {value}" for name, value in headers.items()).encode("latin-1")
