"""``vento-wsgi doctor URL``: what lies between a client and a stream does to it.

visit.py reads the wire, items.py cuts it into what the server made one by one, examination.py
asks whatever can be asked, findings.py judges the answers, report.py says them. An application
may help with the handler ``pulse()``, whose events tell when they were made.
"""

from __future__ import annotations

from ...doctor import pulse

__all__ = ["pulse"]
