"""Formats: rows as NDJSON, JSON and CSV, frames and parts as multipart; each row when it exists.

    rows = ndjson(query())
    return ctx.stream(rows, rows.content_type)

A row of a source that may wait is a chunk of its own: nobody can know whether the next one is
about to come, so none is held back for it. Under gevent the stream joins those that are ready
together, at a tenth of what it costs to make them. A list or a tuple never waits: its rows are
joined here, up to CHUNK bytes.

What a row cannot become is a BodyError that tells its number, in mid-stream; then the closing
bracket of an array and the closing delimiter of a multipart body stay away.
"""

from .formatted import Formatted
from .multipart import multipart_mixed
from .rows import csv_rows, json_array, ndjson

__all__ = ["Formatted", "csv_rows", "json_array", "multipart_mixed", "ndjson"]
