"""Hops: who answered, as far as headers tell, the nearest first.

A proxy may say nothing (haproxy), put its own name in the place of another's (nginx), or add
itself to Via (RFC 9110, section 7.6.3), which says as well by which HTTP it was reached.
"""

from __future__ import annotations

import re
from typing import Any

from .request import Answer

__all__ = ["FAMILIES", "family", "hops"]

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
"""Hops that are told: more stand in a Via only to fill the screen."""

SHOWN = ("X-Cache", "X-Cache-Hits", "CF-Cache-Status", "X-Served-By", "X-Accel-Buffering", "Age")
"""What says nothing of who, and something of how."""

FAMILIES = {
    "nginx": r"nginx|openresty|tengine",
    "haproxy": r"haproxy",
    "Apache": r"apache",
    "Varnish": r"varnish|fastly",
    "CDN": r"cloudflare|cloudfront|akamai|fastly|azure|vercel",
    "gunicorn": r"gunicorn",
}


def hops(answer: Answer, seen: dict[str, Any]) -> list[str]:
    """seen: what the application told of itself. No more than MOST of them."""
    found = []
    for header, name in SIGNS.items():
        if answer.get(header):
            found.append(name)
    if server := answer.get("Server"):
        found.append(server)
    via = answer.get("Via")
    found += reversed([f"{hop.strip()} (Via)" for hop in via.split(",")] if via else [])
    if isinstance(told := seen.get("server"), str) and told:
        hop = f"{told} (reached by {seen.get('protocol')})"
        found.append(hop.encode(errors="replace").decode())  # JSON may hold half a surrogate pair
    kept: dict[str, str] = {}
    for hop in found:
        kept.setdefault(hop.partition(" ")[0].lower(), hop)
    return list(kept.values())[:MOST]


def family(hop: str) -> list[str]:
    """Whose settings a hop listens to."""
    return [name for name, pattern in FAMILIES.items() if re.search(pattern, hop, re.IGNORECASE)]
