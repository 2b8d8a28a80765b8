"""Cures: for each finding, what to change, and where."""

from __future__ import annotations

from collections.abc import Sequence

from .proxies import family

__all__ = ["CURES", "cures"]

CURES: dict[str, dict[str, str]] = {
    "buffering": {
        "nginx": "proxy_buffering off; in the location, or let the application send "
        "X-Accel-Buffering: no (ctx.sse does) and take proxy_ignore_headers and "
        "proxy_hide_header X-Accel-Buffering out",
        "haproxy": "take http-response wait-for-body out; option http-no-delay for small events",
        "Apache": "ProxyPass … flushpackets=on, and no output filter on this path that collects "
        "(mod_ext_filter, mod_security)",
        "Varnish": "set beresp.do_stream = true; in vcl_backend_response, or return (pipe)",
        "CDN": "turn off buffering, optimisation and caching for this path",
        "gunicorn": "nothing of it buffers: look at middleware that collects the body, or at an "
        "application that makes its items together",
    },
    "compression": {
        "nginx": "take this type out of gzip_types, or gzip off; in the location",
        "haproxy": "take this type out of compression type",
        "Apache": "SetEnvIf Request_URI … no-gzip, or take this type out of "
        "AddOutputFilterByType DEFLATE (mod_deflate)",
        "CDN": "send Cache-Control: no-transform, which forbids it to compress",
        "gunicorn": "middleware that compresses must flush after each chunk",
    },
    "silent": {
        "nginx": "proxy_buffering off; holds nothing back",
        "Apache": "ProxyPass … flushpackets=on, and no mod_cache on this path",
        "gunicorn": "send a comment when the stream starts (ctx.sse does); a worker of the class "
        "sync is busy with one stream, so use -k vento_wsgi.server.StreamWorker",
    },
    "late": {
        "nginx": "proxy_buffering off; passes the head on at once",
        "gunicorn": "return the stream before its first item exists, and open it with a comment "
        "(ctx.sse does); all workers may be busy: -k vento_wsgi.server.StreamWorker",
    },
    "downgrade": {
        "nginx": 'proxy_http_version 1.1; and proxy_set_header Connection ""; on its far side',
        "haproxy": "it passes on what it gets: the server behind it has to speak HTTP/1.1",
        "Apache": "take SetEnv downgrade-1.0, force-response-1.0 and force-proxy-request-1.0 out",
        "gunicorn": "wsgiref and other servers for development speak HTTP/1.0 only",
    },
    "cut": {
        "nginx": "proxy_read_timeout 1h; or a heartbeat more often than it says (60 s)",
        "haproxy": "timeout server 1h (and timeout tunnel, timeout client), or a shorter heartbeat",
        "Apache": "ProxyTimeout 3600, or ProxyPass … timeout=3600, or a shorter heartbeat",
        "CDN": "a heartbeat: its limit is fixed, at 30 to 100 s",
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
        "gunicorn": "take Content-Length from the response: nobody knows the length of a stream",
        "nginx": "it announces what it has collected: proxy_buffering off; proxy_cache off;",
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
        "gunicorn": "answer HEAD with the head of GET, and no body (vento_wsgi does by itself)",
        "CDN": "pass HEAD on: some make a GET of it, and wait for its end",
    },
    "range": {
        "nginx": "gzip off; and proxy_force_ranges for files: what is compressed on the way has "
        "no ranges",
        "haproxy": "take this type out of compression type",
        "Apache": "no DEFLATE for this type",
        "gunicorn": "ctx.file(…) and ctx.stream(open(…, 'rb')) answer ranges",
    },
    "unsized": {
        "nginx": "take this type out of gzip_types",
        "haproxy": "take this type out of compression type",
        "Apache": "no DEFLATE for this type",
        "gunicorn": "ctx.file(…) and ctx.stream(open(…, 'rb')) announce the length",
    },
    "threads": {
        "gunicorn": "-k vento_wsgi.server.StreamWorker: a worker of the class sync serves one "
        "stream at a time, and everybody else waits",
    },
}


def cures(code: str, hops: Sequence[str]) -> dict[str, str]:
    """By whose setting: of those that show themselves first, then of those that need not.

    A proxy may stand there unseen, so that none is left out but CDNs, which always show.
    """
    seen = [name for hop in hops for name in family(hop)]
    shy = [name for name in ("nginx", "haproxy", "Apache", "gunicorn") if name not in seen]
    table = CURES[code]
    return {name: table[name] for name in dict.fromkeys(seen + shy) if name in table}
