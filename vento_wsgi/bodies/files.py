"""File bodies: conditional requests, ranges, sendfile (RFC 9110, sections 13 and 14).

A body that is a regular file, or bytes in memory, has a length and can start anywhere. When the
response is made, the file's position is taken for the start of the body and its size for the
end. A file also has an entity tag, made of its modification time and size.

One :class:`Window` on the file is sent, or several between the delimiters of multipart/byteranges.
A window is the file-like object that ``wsgi.file_wrapper`` takes, so the server may use sendfile.
A window never gives more bytes than were announced. If the file shrinks while it is sent, the
window raises StreamAborted and the connection breaks off.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import IO, Any

from werkzeug.datastructures import ETags, Headers
from werkzeug.http import http_date, parse_etags, parse_range_header

from .. import http_syntax
from ..exceptions import StreamAborted
from ..logs import logger
from .sources import READ_SIZE

__all__ = ["PLAIN", "File", "Window", "answer", "offers_sendfile", "open_file"]

log = logger(__name__)

_SYNTAX = re.compile(
    r"bytes=[ \t]*(\d+-\d*|-0*[1-9]\d*)([ \t]*,[ \t]*(\d+-\d*|-0*[1-9]\d*))*[ \t]*",
    re.IGNORECASE | re.ASCII,
)

MAX_LINKS = 40
"""Symbolic links on the way to a file, as many as Linux follows."""


def _flag(name: str) -> int:
    """A flag of open(), or 0: macOS has no O_PATH, and Windows has none of these."""
    return getattr(os, name, 0)


_FOLDER = os.O_RDONLY | _flag("O_DIRECTORY") | _flag("O_CLOEXEC") | _flag("O_PATH")
"""Flags to open a folder. With O_PATH, of Linux, the right to list the folder is not needed."""

MAX_RANGES = 32
"""Ranges answered in one response. PDF readers ask for a handful, attackers for thousands."""

PLAIN = (io.FileIO, io.BufferedReader, io.BufferedRandom)
"""Types that open() returns for bytes. A subclass may read other bytes than its descriptor."""

Environ = Mapping[str, Any]
Parts = list[tuple[int, int]]
"""Ranges of a file in bytes, each as (start, stop)."""


def open_file(path: str, root: str | None = None) -> IO[bytes]:
    """Open the regular file at `path` for reading; with `root`, the path is relative to it.

    Raises FileNotFoundError if it is not a regular file or not below the root, other OSErrors
    of open(), and ValueError if no file can have this path.
    """

    def opener(path: str, flags: int) -> int:
        return _regular(path, flags, None) if root is None else _beneath(root, path, flags)

    return open(path, "rb", opener=opener)


def _regular(path: str, flags: int, folder: int | None) -> int:
    """The descriptor of a regular file. A file of another kind is not opened.

    Opening a FIFO, a terminal or a tape has effects, so the kind is checked first. If the file
    was replaced by one in between, O_NONBLOCK keeps the open from waiting, and the kind is
    checked again.
    """
    follow = folder is None
    if stat.S_ISREG(os.stat(path, dir_fd=folder, follow_symlinks=follow).st_mode):
        flags |= _flag("O_NONBLOCK") | (0 if follow else _flag("O_NOFOLLOW"))
        descriptor = os.open(path, flags, dir_fd=folder)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise _missing(path)


def _beneath(root: str, path: str, flags: int) -> int:
    """The descriptor of the regular file that `path` leads to, below `root`.

    Each name is looked up in an open folder, and the system never follows a link. The target of
    a link is walked in the same way instead. So a folder that is moved or replaced meanwhile
    cannot lead out of the root. A link's target is an absolute path below the root, or a
    relative path that does not leave the root on its way.
    """
    folders = [os.open(root, _FOLDER)]
    names, links = path.split("/")[::-1], 0
    try:
        while names:
            name, folder = names.pop(), folders[-1]
            if name in ("", "."):
                continue
            if name == "..":
                if len(folders) == 1:
                    break
                os.close(folders.pop())
            elif stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                links += 1
                if links > MAX_LINKS:
                    break
                target = os.readlink(name, dir_fd=folder)
                if os.path.isabs(target):
                    target = _below(root, target)
                    while len(folders) > 1:
                        os.close(folders.pop())
                names += target.split("/")[::-1]
            elif names:
                folders.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder))
            else:
                return _regular(name, flags, folder)
        raise _missing(path)
    finally:
        for folder in folders:
            os.close(folder)


def _below(root: str, target: str) -> str:
    """The part of an absolute path that is below the root, as given or with its links resolved."""
    for base in (os.path.abspath(root), os.path.realpath(root)):
        base = base.rstrip("/") + "/"
        if target.startswith(base):
            return target[len(base) :]
    raise _missing(target)


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class File:
    """A file body: the bytes `start` to `stop` of an open file, and the headers that describe it.

    movable: whether the position of its descriptor may be set, for a server's sendfile.
    """

    def __init__(self, body: IO[bytes], descriptor: int | None, start: int, stop: int) -> None:
        self.body = body
        self.descriptor = descriptor
        self.start = start
        self.size = max(0, stop - start)
        self.movable = descriptor is not None
        self.headers = {"Content-Length": str(self.size), "Accept-Ranges": "bytes"}

    @classmethod
    def of(cls, body: Any) -> File | None:
        """`body` as a File, or None for pipes, text files and files that decompress."""
        if isinstance(body, io.BytesIO):
            return cls(body, None, body.tell(), body.getbuffer().nbytes)
        inner = body.file if isinstance(body, tempfile._TemporaryFileWrapper) else body
        if type(inner) not in PLAIN or not isinstance(getattr(inner, "raw", inner), io.FileIO):
            return None
        if not inner.readable():
            return None
        if inner.writable():
            inner.flush()
        status = os.fstat(inner.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        file = cls(body, inner.fileno(), inner.tell(), status.st_size)
        # a buffer that is also for writing keeps the position of its descriptor in mind
        file.movable = type(inner) is not io.BufferedRandom
        file.headers["Last-Modified"] = http_date(int(status.st_mtime))
        file.headers["ETag"] = f'"{status.st_mtime_ns:x}-{file.start:x}-{status.st_size:x}"'
        return file

    def __iter__(self) -> Iterator[bytes]:
        """Its bytes in blocks, for middleware that reads the body of a response."""
        window = Window(self, 0, self.size, lambda: None)
        return iter(partial(window.read, READ_SIZE), b"")

    def close(self) -> None:
        self.body.close()

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset` of the open file, b"" past its end."""
        if self.descriptor is not None and hasattr(os, "pread"):  # not on Windows
            return os.pread(self.descriptor, size, offset)
        self.body.seek(offset)
        return self.body.read(size)


class Window:
    """The bytes `start` to `stop` of a body as a file object. Its positions are the file's own."""

    def __init__(self, file: File, start: int, stop: int, close: Callable[[], object]) -> None:
        self._file = file
        self._position = file.start + start
        self._stop = file.start + stop
        self._close = close
        self._closed = self._failed = False
        if file.movable and file.descriptor is not None:
            # sendfile of servers begins at the descriptor's position
            os.lseek(file.descriptor, self._position, os.SEEK_SET)

    def fileno(self) -> int:
        if self._file.descriptor is None:
            raise io.UnsupportedOperation("bytes in memory have no file descriptor")
        return self._file.descriptor

    def read(self, size: int = -1) -> bytes:
        left = self._stop - self._position
        if left <= 0 or size == 0:
            return b""
        data = self._file.read_at(self._position, left if size < 0 else min(size, left))
        if not data:
            raise self._shrunk()
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._stop}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def _shrunk(self) -> StreamAborted:
        # the name may come from a request: repr() escapes line breaks, which could forge a record
        name = repr(getattr(self._file.body, "name", "a file"))
        self._failed = True
        log.error("%s shrank while it was sent", name)
        return StreamAborted(f"{name} shrank while it was sent")

    def close(self) -> None:
        """Close the file. Raises StreamAborted if it is too short for what was announced."""
        if self._closed:
            return
        self._closed = True
        descriptor, shrunk = self._file.descriptor, False
        if descriptor is not None and self._position < self._stop and not self._failed:
            shrunk = os.fstat(descriptor).st_size < self._stop
        self._close()
        if shrunk:
            raise self._shrunk()


def answer(
    environ: Environ, headers: Headers, file: File, close: Callable[[], object]
) -> tuple[int, Window | Iterator[bytes] | None]:
    """The status of a response with `file`, and its body; changes `headers` to fit.

    The body is a Window for one range, chunks for several ranges, None if it is empty.
    Preconditions are evaluated in the order of RFC 9110, section 13.2.2. `close` is called when
    a window is closed.
    """
    etag, modified = headers.get("ETag"), http_syntax.date(headers.get("Last-Modified"))
    status = _precondition(environ, etag, modified)
    if status is not None:
        headers["Content-Length"] = "0"
        return status, None
    parts = None
    if environ["REQUEST_METHOD"] == "GET" and _if_range(environ, etag, modified):
        parts = _ranges(environ.get("HTTP_RANGE"), file.size)
    if parts is None:
        return 200, Window(file, 0, file.size, close)
    if not parts:
        headers["Content-Range"] = f"bytes */{file.size}"
        headers["Content-Length"] = "0"
        return 416, None
    if len(parts) > 1:
        return 206, _multipart(file, parts, headers, close)
    start, stop = parts[0]
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    headers["Content-Length"] = str(stop - start)
    return 206, Window(file, start, stop, close)


def offers_sendfile(environ: Environ, file: File) -> bool:
    """Whether the server's wsgi.file_wrapper can send a Window."""
    if "uwsgi.version" in environ:  # ignores offset and length
        return False
    return file.movable and "wsgi.file_wrapper" in environ


def _precondition(environ: Environ, etag: str | None, modified: Any) -> int | None:
    def tags(name: str) -> ETags | None:
        return parse_etags(environ[name]) if name in environ else None

    def date(name: str) -> Any:
        return http_syntax.date(environ.get(name)) if modified is not None else None

    tag = (etag or "").removeprefix("W/").strip('"')
    safe = environ["REQUEST_METHOD"] in ("GET", "HEAD")
    if (match := tags("HTTP_IF_MATCH")) is not None:
        strong = etag is not None and not etag.startswith("W/")
        if not (match.star_tag or (strong and match.contains(tag))):
            return 412
    elif (since := date("HTTP_IF_UNMODIFIED_SINCE")) is not None and modified > since:
        return 412
    if (none_match := tags("HTTP_IF_NONE_MATCH")) is not None:
        if none_match.star_tag or (etag and none_match.contains_weak(tag)):
            return 304 if safe else 412
        return None
    if safe and (since := date("HTTP_IF_MODIFIED_SINCE")) is not None and modified <= since:
        return 304
    return None


def _if_range(environ: Environ, etag: str | None, modified: Any) -> bool:
    # unless the validator is strong and the same, the whole file is sent (section 13.1.5)
    header: str = environ.get("HTTP_IF_RANGE", "")
    if not header:
        return True
    date = http_syntax.date(header)
    return bool(date == modified) if date is not None else header == etag and header[0] == '"'


def _ranges(header: str | None, size: int) -> Parts | None:
    """The ranges of a Range header in a file of `size` bytes; [] if the file has none of them.

    None if the header is to be ignored: other units than bytes, bad syntax, ranges out of order
    or overlapping, more than MAX_RANGES.
    """
    asked = parse_range_header(header) if _SYNTAX.fullmatch(header or "") else None
    if asked is None or len(asked.ranges) > MAX_RANGES:
        return None
    parts: Parts = []
    for start, stop in asked.ranges:
        if start < 0:
            start, stop = max(0, size + start), size
        if start < size:
            parts.append((start, min(size, stop or size)))
    overlap = any(start < stop for (_, stop), (start, _) in pairwise(parts))
    return None if overlap else parts


def _multipart(
    file: File, parts: Parts, headers: Headers, close: Callable[[], object]
) -> Iterator[bytes]:
    """The chunks of multipart/byteranges (section 14.6). Sets the headers that describe them."""
    boundary = secrets.token_hex(16)
    kind = headers.get("Content-Type", "application/octet-stream")
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n"
        f"Content-Range: bytes {start}-{stop - 1}/{file.size}\r\n\r\n".encode()
        for start, stop in parts
    ]
    end = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(stop - start for start, stop in parts) + len(end)
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(length)

    def chunks() -> Iterator[bytes]:
        for head, (start, stop) in zip(heads, parts):
            yield head
            window = Window(file, start, stop, close)
            while data := window.read(READ_SIZE):
                yield data
        yield end

    return chunks()
