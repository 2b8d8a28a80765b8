"""``vento-wsgi doctor URL``: find out what proxies, compression and timeouts do to a stream.

request.py sends a request and reads the raw response; items.py splits a body into its events or
lines; examination.py makes all requests of an examination; bursts.py and proxies.py interpret
what came; findings.py decides what is wrong; fixes.py knows the settings to change; report.py
formats the result. An application can help with the handler ``pulse()``: its events say when they
were made.
"""

from __future__ import annotations

from ...doctor import pulse

__all__ = ["pulse"]
