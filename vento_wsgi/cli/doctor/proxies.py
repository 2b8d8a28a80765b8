"""Proxies: the servers on the way that show in the headers of a response, the nearest first.

A proxy may add no header (haproxy), replace Server with its own name (nginx), or add itself to
Via (RFC 9110, section 7.6.3), which also says which HTTP version it received.
"""

from __future__ import annotations

import re
from typing import Any

from .request import ResponseHead

__all__ = ["FAMILIES", "family", "proxies"]

SIGNS = {
    "CF-Ray": "Cloudflare",
    "X-Amz-Cf-Id": "CloudFront",
    "X-Azure-Ref": "Azure Front Door",
    "X-Fastly-Request-Id": "Fastly",
    "X-Akamai-Transformed": "Akamai",
    "X-Varnish": "Varnish",
    "Fly-Request-Id": "Fly.io",
    "X-Vercel-Id": "Vercel",
    "X-Envoy-Upstream-Service-Time": "Envoy",
    "X-Accel-Version": "nginx",
    "X-Litespeed-Cache": "LiteSpeed",
}

MOST = 20
"""Proxies that are reported: a longer Via only fills the screen."""

SHOWN = ("X-Cache", "X-Cache-Hits", "CF-Cache-Status", "X-Served-By", "X-Accel-Buffering", "Age")
"""Headers that name no proxy but say what one did."""

FAMILIES = {
    "nginx": r"nginx|openresty|tengine",
    "haproxy": r"haproxy",
    "Apache": r"apache",
    "Varnish": r"varnish|fastly",
    "CDN": r"cloudflare|cloudfront|akamai|fastly|azure|vercel",
    "gunicorn": r"gunicorn",
}


def proxies(response: ResponseHead, seen: dict[str, Any]) -> list[str]:
    """The proxies and the server that show, at most MOST. seen: what the application reported."""
    found = []
    for header, name in SIGNS.items():
        if response.get(header):
            found.append(name)
    if server := response.get("Server"):
        found.append(server)
    via = response.get("Via")
    found += reversed([f"{proxy.strip()} (Via)" for proxy in via.split(",")] if via else [])
    if isinstance(told := seen.get("server"), str) and told:
        proxy = f"{told} (reached by {seen.get('protocol')})"
        found.append(proxy.encode(errors="replace").decode())  # JSON may hold half a surrogate pair
    kept: dict[str, str] = {}
    for proxy in found:
        kept.setdefault(proxy.partition(" ")[0].lower(), proxy)
    return list(kept.values())[:MOST]


def family(proxy: str) -> list[str]:
    """The keys of FAMILIES, and so of fixes, that fit a proxy."""
    return [name for name, pattern in FAMILIES.items() if re.search(pattern, proxy, re.IGNORECASE)]
