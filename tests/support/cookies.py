"""Set-Cookie as its parts."""

from __future__ import annotations


def parsed(cookie: str) -> tuple[str, list[str]]:
    """A cookie's pair, and its attributes, whose order means nothing."""
    pair, *attributes = cookie.split("; ")
    return pair, sorted(attribute.lower() for attribute in attributes)
