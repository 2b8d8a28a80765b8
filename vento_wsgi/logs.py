"""The loggers of this package.

Each module gets its logger from `logger`. Such a logger has three properties:

- Its records are printable. Paths, headers and exception messages come from clients, who could
  otherwise add lines to a log or send control sequences to a terminal (CWE-117); see `printable`.
- Its records have fields for programs, such as ``route``. If a record factory or filter of the
  application sets the same field, its value stays.
- It cannot be disabled by accident. ``logging.config.dictConfig()`` disables all loggers that it
  does not name, by default; ours stay enabled. To silence them, set a level.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from traceback import TracebackException
from typing import TYPE_CHECKING, Any

__all__ = ["escape", "logger", "printable"]

LONGEST = 1000
"""Characters of a text in a log line, at most: enough for our messages, and it bounds what a
client can write to the log.
"""

LONGEST_ERROR = 10_000
"""Characters of a line of a traceback, at most: some database errors hold a whole statement."""

_NOT_INDENTED = re.compile(r"\n(?! )")

_FIELDS = "vento_wsgi"
"""The attribute that holds the fields of a record until `escape` sets them."""

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` on one line without control sequences, cut to `longest` characters.

    All characters that are not printable become escapes of Python, such as ``\\x1b``: control
    characters, line separators, marks that change the direction of text, lone surrogates.
    """
    if not text.isprintable():
        text = "".join(map(_printable, text[: longest + 1]))
    return text if len(text) <= longest else f"{text[:longest]}…"


def _printable(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def logger(name: str) -> _Logger:
    """The logger called `name`, for a module of this package."""
    log = logging.getLogger(name)
    log.addFilter(escape)
    return _Logger(log, {})


class _Logger(_Adapter):
    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 – logging's name
        self.logger.disabled = False  # undoes dictConfig()
        return self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: Any) -> Any:
        # logging raises KeyError if `extra` has what a record factory has set already
        if "extra" in kwargs:
            kwargs["extra"] = {_FIELDS: kwargs["extra"]}
        return msg, kwargs


def escape(record: logging.LogRecord) -> bool:
    """A filter for loggers: sets the fields of a record, and makes its texts printable."""
    for name, value in vars(record).pop(_FIELDS, {}).items():
        vars(record).setdefault(name, _escaped(value))
    # handlers report a record that cannot be formatted; logging must not fail its caller
    with suppress(Exception):
        _escape_message(record)
    with suppress(Exception):
        _escape_traceback(record)
    return True


def _escape_message(record: logging.LogRecord) -> None:
    message = record.getMessage()
    if message.isprintable() and len(message) <= LONGEST:
        return
    if isinstance(record.args, tuple):
        record.args = tuple(map(_escaped, record.args))
    elif record.args:
        record.args = {name: _escaped(value) for name, value in record.args.items()}


def _escape_traceback(record: logging.LogRecord) -> None:
    if record.exc_info and record.exc_info[1] is not None and record.exc_text is None:
        error = record.exc_info[1]
        found = TracebackException(type(error), error, error.__traceback__, compact=True)
        pythons = "".join(found.format()).rstrip("\n")
        _indent_notes(found)
        safe = "\n".join(map(_traceback_lines, found.format()))
        if safe != pythons:
            record.exc_text = safe  # formatters use it instead of formatting exc_info


def _escaped(value: object) -> object:
    """`value` as it goes into a log line: numbers stay numbers for %d, the rest is made text."""
    return value if isinstance(value, (int, float, type(None))) else printable(str(value))


def _indent_notes(found: Any) -> None:
    """Indent the notes of add_note(), so that no line of them looks like a line of the log."""
    exceptions = [found]
    while exceptions:
        found = exceptions.pop()
        notes = getattr(found, "__notes__", None)  # from Python 3.11 on
        if isinstance(notes, (list, tuple)):
            found.__notes__ = ["    " + str(note).replace("\n", "\n    ") for note in notes]
        group = getattr(found, "exceptions", None) or ()
        exceptions += filter(None, (found.__cause__, found.__context__, *group))


def _traceback_lines(lines: str) -> str:
    """A part of a traceback, with all lines but the first indented.

    A message may have several lines, and so may the file name of a SyntaxError. Indented, they do
    not look like new lines of the log.
    """
    lines = lines.removesuffix("\n")
    if not lines.startswith("\n"):  # "\nDuring handling of…" stands between two exceptions
        lines = _NOT_INDENTED.sub("\n    ", lines)
    return "\n".join(printable(line, LONGEST_ERROR) for line in lines.split("\n"))
