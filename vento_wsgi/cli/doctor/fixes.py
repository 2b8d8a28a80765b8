"""Fixes: for each finding, which settings of which proxy or server to change."""

from __future__ import annotations

from collections.abc import Sequence

from .proxies import family

__all__ = ["FIXES", "fixes"]

FIXES: dict[str, dict[str, str]] = {
    "buffering": {
        "nginx": "proxy_buffering off; in the location, or let the application send "
        "X-Accel-Buffering: no (ctx.sse does) and remove proxy_ignore_headers and "
        "proxy_hide_header X-Accel-Buffering",
        "haproxy": "remove http-response wait-for-body; option http-no-delay for small events",
        "Apache": "ProxyPass … flushpackets=on, and no output filter on this path that collects "
        "(mod_ext_filter, mod_security)",
        "Varnish": "set beresp.do_stream = true; in vcl_backend_response, or return (pipe)",
        "CDN": "turn off buffering, optimisation and caching for this path",
        "gunicorn": "gunicorn buffers nothing: look for middleware that collects the body, or an "
        "application that makes several items at once",
    },
    "compression": {
        "nginx": "remove this type from gzip_types, or gzip off; in the location",
        "haproxy": "remove this type from compression type",
        "Apache": "SetEnvIf Request_URI … no-gzip, or remove this type from "
        "AddOutputFilterByType DEFLATE (mod_deflate)",
        "CDN": "send Cache-Control: no-transform, which forbids a CDN to compress",
        "gunicorn": "middleware that compresses must flush after each chunk",
    },
    "silent": {
        "nginx": "proxy_buffering off; in the location",
        "Apache": "ProxyPass … flushpackets=on, and no mod_cache on this path",
        "gunicorn": "send a comment when the stream starts (ctx.sse does); a worker of the class "
        "sync is busy with one stream, so use -k vento_wsgi.server.StreamWorker",
    },
    "late": {
        "nginx": "proxy_buffering off; in the location: the head is passed on at once",
        "gunicorn": "return the stream before its first item exists, and start it with a comment "
        "(ctx.sse does); if all workers are busy: -k vento_wsgi.server.StreamWorker",
    },
    "downgrade": {
        "nginx": 'proxy_http_version 1.1; and proxy_set_header Connection ""; in the location',
        "haproxy": "haproxy keeps the version of the server behind it, which must speak HTTP/1.1",
        "Apache": "remove SetEnv downgrade-1.0, force-response-1.0 and force-proxy-request-1.0",
        "gunicorn": "wsgiref and other servers for development speak HTTP/1.0 only",
    },
    "cut": {
        "nginx": "proxy_read_timeout 1h; or a heartbeat shorter than that timeout (default 60 s)",
        "haproxy": "timeout server 1h (and timeout tunnel, timeout client), or a shorter heartbeat",
        "Apache": "ProxyTimeout 3600, or ProxyPass … timeout=3600, or a shorter heartbeat",
        "CDN": "a shorter heartbeat: a CDN's limit is fixed, at 30 to 100 s",
        "gunicorn": "--timeout ends a worker of the class sync that streams for longer: "
        "-k vento_wsgi.server.StreamWorker",
    },
    "broken": {
        "gunicorn": "its log says why: the application failed, or a worker was killed (--timeout)",
        "nginx": "its error.log says whether the server behind it broke off (upstream "
        "prematurely closed connection)",
    },
    "quiet": {
        "gunicorn": "heartbeat=15 of ctx.sse and ctx.stream sends a comment after 15 s of silence",
    },
    "length": {
        "gunicorn": "remove Content-Length from the response: a stream's length is not known",
        "nginx": "proxy_buffering off; proxy_cache off; so that nginx does not collect the body "
        "and announce its length",
    },
    "cached": {
        "nginx": "proxy_cache off; in the location",
        "CDN": "a rule that bypasses the cache for this path",
        "Varnish": "return (pass) in vcl_recv",
        "gunicorn": "send Cache-Control: no-cache (ctx.sse does)",
    },
    "resume": {
        "gunicorn": "begin after ctx.last_event_id, as in "
        "broker.subscribe(…, after=ctx.last_event_id)",
        "nginx": "proxy_set_header must not empty Last-Event-ID",
    },
    "head": {
        "gunicorn": "answer HEAD with the head of GET and no body (vento_wsgi does)",
        "CDN": "pass HEAD on: some CDNs send a GET instead, and wait for its end",
    },
    "range": {
        "nginx": "gzip off; and proxy_force_ranges for files: a body that nginx compresses has no "
        "ranges",
        "haproxy": "remove this type from compression type",
        "Apache": "no DEFLATE for this type",
        "gunicorn": "ctx.file(…) and ctx.stream(open(…, 'rb')) support ranges",
    },
    "unsized": {
        "nginx": "remove this type from gzip_types",
        "haproxy": "remove this type from compression type",
        "Apache": "no DEFLATE for this type",
        "gunicorn": "ctx.file(…) and ctx.stream(open(…, 'rb')) announce the length",
    },
    "threads": {
        "gunicorn": "-k vento_wsgi.server.StreamWorker: a worker of the class sync serves one "
        "stream at a time, and all other requests wait",
    },
}


def fixes(code: str, proxies: Sequence[str]) -> dict[str, str]:
    """The fixes of a finding, by the name of the proxy or server whose setting it is.

    Proxies that show in the response come first. The others follow, since a proxy need not show;
    only CDNs always do.
    """
    seen = [name for proxy in proxies for name in family(proxy)]
    shy = [name for name in ("nginx", "haproxy", "Apache", "gunicorn") if name not in seen]
    table = FIXES[code]
    return {name: table[name] for name in dict.fromkeys(seen + shy) if name in table}
