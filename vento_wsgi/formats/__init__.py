"""Formats: rows as NDJSON, JSON or CSV, and parts as multipart, each sent as soon as it exists.

    rows = ndjson(query())
    return ctx.stream(rows, rows.content_type)

Each row of a source that may wait is a chunk of its own, since the source may wait before the
next row. Under gevent the stream joins the chunks that are ready at the same time. A list or a
tuple never waits, so its rows are joined here, into chunks of CHUNK bytes.

A row that cannot be encoded raises BodyError with its number, in the middle of the stream. Then
the closing bracket of an array, or the closing delimiter of a multipart body, is not sent.
"""

from .formatted import Formatted
from .multipart import multipart_mixed
from .rows import csv_rows, json_array, ndjson

__all__ = ["Formatted", "csv_rows", "json_array", "multipart_mixed", "ndjson"]
