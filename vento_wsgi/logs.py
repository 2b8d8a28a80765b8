"""How this package writes to ``logging``.

Each module has its logger from `logger`, and what is logged there has three properties:

- It is printable. Paths, headers and messages of exceptions come from clients, who could write
  lines of their own into a log, or have a terminal obey them (CWE-117). See `printable`.
- What a program may want to know is there as fields of the record, too, such as ``route``. A
  record factory or filter of the application may set the same fields: it goes first.
- It is logged. ``logging.config.dictConfig()`` disables each logger that it does not name, unless
  it is told otherwise; ours go on. To silence them, set a level.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from traceback import TracebackException
from typing import TYPE_CHECKING, Any

__all__ = ["escape", "logger", "printable"]

LONGEST = 1000
"""Characters of a text in a log line: enough for every message, and no client fills a disk."""

LONGEST_ERROR = 10_000
"""Characters of a line of a traceback: some databases put the whole statement into a message."""

_NOT_INDENTED = re.compile(r"\n(?! )")

_FIELDS = "vento_wsgi"
"""The attribute of a record in which its fields come as far as `escape`."""

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, in which a terminal finds nothing to obey, of `longest` characters.

    Control characters, line separators, marks that change the direction of text, lone surrogates
    and all else that is not printable become escapes as in Python, ``\\x1b`` or ``\\u2028``.
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
        self.logger.disabled = False  # see above
        return self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: Any) -> Any:
        # logging raises KeyError if `extra` has what a record factory has set already
        if "extra" in kwargs:
            kwargs["extra"] = {_FIELDS: kwargs["extra"]}
        return msg, kwargs


def escape(record: logging.LogRecord) -> bool:
    """A filter for loggers: gives a record its fields, and escapes what it says."""
    for name, value in vars(record).pop(_FIELDS, {}).items():
        vars(record).setdefault(name, _escaped(value))
    # what cannot be formatted is for the handlers to report: logging never fails its caller
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
            record.exc_text = safe  # formatters take it in place of their own


def _escaped(value: object) -> object:
    """What stands for `value` in a log line; a number stays one, since %d takes nothing else."""
    return value if isinstance(value, (int, float, type(None))) else printable(str(value))


def _indent_notes(found: Any) -> None:
    """Indent what add_note() added to the exceptions of a traceback: each line is a part of it."""
    exceptions = [found]
    while exceptions:
        found = exceptions.pop()
        notes = getattr(found, "__notes__", None)  # from Python 3.11 on
        if isinstance(notes, (list, tuple)):
            found.__notes__ = ["    " + str(note).replace("\n", "\n    ") for note in notes]
        group = getattr(found, "exceptions", None) or ()
        exceptions += filter(None, (found.__cause__, found.__context__, *group))


def _traceback_lines(lines: str) -> str:
    """A part of a traceback; all but its first line are indented, so that none looks new.

    A message may have several lines, and so may the file name of a SyntaxError.
    """
    lines = lines.removesuffix("\n")
    if not lines.startswith("\n"):  # what stands between two exceptions
        lines = _NOT_INDENTED.sub("\n    ", lines)
    return "\n".join(printable(line, LONGEST_ERROR) for line in lines.split("\n"))
