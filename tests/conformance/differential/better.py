"""Where StreamWorker does better than gunicorn's own gevent worker, and what exactly it does."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from conformance.differential.answers import Answer, Seen, seen
from conformance.differential.cases import BAD_HOSTS, BAD_TARGETS, MALFORMED, Case
from gunicorn.util import write_error

from vento_wsgi.logs import printable

PARSERS = ("python", "fast")
"""Values of gunicorn's setting `http_parser` with which both workers are compared."""


class Better(NamedTuple):
    """What StreamWorker does otherwise than gunicorn's worker, on purpose.

    when: of which cases. stock, ours: how the connection ends on either.
    instead: what StreamWorker shows, made from what the other one does.
    parsers: the values of gunicorn's `http_parser` with which it is so.
    """

    why: str
    when: Callable[[Case], bool]
    stock: str
    ours: str
    instead: Callable[[Case, Seen], Seen]
    parsers: tuple[str, ...] = PARSERS


def page(status: int, reason: str, text: str = "") -> Answer:
    """gunicorn's own error page."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write_error(ours, status, reason, text)
        return seen(theirs.recv(1 << 16), []).answers[0]


FAILED = page(500, "Internal Server Error")
ANSWERED = Answer(
    "HTTP/1.1 200 OK",
    ("Server: gunicorn", "Date", "Connection: close", "Content-Length: 4"),
    *("length", b"last", True),
)
LOGGED = "[ERROR] Error handling request"


def query(case: Case) -> str:
    return case.data.split(b" ")[1].partition(b"?")[2].decode()


def final(show: Seen) -> list[Answer]:
    return [answer for answer in show.answers if not answer.status.startswith("HTTP/1.1 1")]


FILE = r"/make .*body=(written.)?file\b.* (2|4)0\d \d+$"


def counted(_case: Case, show: Seen) -> Seen:
    lines = [
        f"{line.rpartition(' ')[0]} {len(answer.body)}" if re.search(FILE, line) else line
        for line, answer in zip(show.access, final(show))
    ]
    return replace(show, access=tuple(lines))


def broken_off(_case: Case, show: Seen) -> Seen:
    """The body ends where the application left it, and the connection with it."""
    answer = show.answers[0]
    body = (answer.body + show.rest).partition(b"HTTP/1.1 ")[0]
    answer = answer._replace(body=body, complete=False)
    return replace(show, answers=(answer,), rest=b"", end="broken off", access=own(show))


def own(show: Seen) -> tuple[str, ...]:
    """The lines of the access log on the response of the application."""
    return tuple(line for line in show.access if "/make" in line)


def short(case: Case, show: Seen) -> Seen:
    why = f"[ERROR] GET /make: a body ended {case.missing} bytes short of its Content-Length"
    return replace(broken_off(case, show), errors=(*show.errors, why))


def kept(_case: Case, show: Seen) -> Seen:
    return replace(
        show,
        answers=(show.answers[0], ANSWERED),
        rest=b"",
        end="kept",
        access=(*own(show), "GET /last  200 4"),
    )


PIPE = ("BrokenPipeError: [Errno 32] broken",)  # a line of the log that the other one leaves out


def failed(case: Case, show: Seen) -> Seen:
    request = f"{case.methods[0]} /make?{query(case)}"
    return replace(
        show,
        answers=(FAILED,),
        rest=b"",
        end="closed",
        access=(*show.access, f"{case.methods[0]} None {query(case)} 500 0"),
        errors=(f"{LOGGED} {request}", *(show.errors[1:] or PIPE)),
    )


def logged(case: Case, show: Seen) -> Seen:
    return replace(broken_off(case, show), errors=(LOGGED, *show.errors[1:]))


def named_so(_case: Case, show: Seen) -> Seen:
    return replace(show, errors=(LOGGED, *(show.errors[1:] or PIPE)))


def without_body(_case: Case, show: Seen) -> Seen:
    error = show.answers[-1]._replace(framing="none", body=b"", complete=True)
    return replace(show, answers=(*show.answers[:-1], error), rest=b"", end="closed")


def closing(_case: Case, show: Seen) -> Seen:
    first = show.answers[0]
    fields = [field.replace("keep-alive", "close") for field in first.fields]
    return replace(show, answers=(first._replace(fields=tuple(fields)),))


def broken(_case: Case, show: Seen) -> Seen:
    answers, journal = (page(400, "Bad Request"),), ("read fails: RequestBroken",)
    return replace(show, answers=answers, end="closed", journal=journal, access=())


def refused(text: str, *, known: bool) -> Callable[[Case, Seen], Seen]:
    """A 400 that says so. known: whether the access log has a line, which needs a whole head."""

    def instead(case: Case, show: Seen) -> Seen:
        before = len(case.methods) - 1
        said = text if known else f"Invalid Request Line '{text}'"
        answer = page(400, "Bad Request", said)
        if case.methods[-1] == "HEAD":
            answer = answer._replace(framing="none", body=b"")
        line = (f"{case.methods[-1]} None {query(case) if not before else ''} 400 0",)
        return replace(
            show,
            answers=(*show.answers[:before], answer),
            rest=b"",
            end="closed",
            journal=show.journal[:before],
            access=show.access[:before] + (line if known else ()),
            errors=(f"[WARNING] Invalid request from ip=127.0.0.1: {text}",),
        )

    return instead


def sees(old: str, new: str) -> Callable[[Case, Seen], Seen]:
    """The application sees something else of the request, and says so."""

    def instead(case: Case, show: Seen) -> Seen:
        at, longer = len(case.methods) - 1, len(new) - len(old)
        size = len(show.answers[at].body)

        def grown(line: str) -> str:
            return line.replace(f" {size}", f" {size + longer}")

        answer = show.answers[at]
        answer = answer._replace(
            status=answer.status.replace(old, new),
            fields=tuple(map(grown, answer.fields)),
            body=answer.body.replace(old.encode(), new.encode()),
        )
        answers = (*show.answers[:at], answer, *show.answers[at + 1 :])
        return replace(show, answers=answers, access=tuple(map(grown, show.access)))

    return instead


def tunnel(case: Case, show: Seen) -> Seen:
    show = sees('"PATH_INFO": "443"', '"PATH_INFO": ""')(case, show)
    return replace(show, access=tuple(line.replace(" 443 ", "  ") for line in show.access))


def head(*names: str) -> Callable[[Case], bool]:
    """Whether a case is one of HEADS, alone or behind another request."""
    return lambda case: case.name.partition(": ")[2] in names


def alone(_case: Case, show: Seen) -> Seen:
    errors = (LOGGED, *show.errors[1:]) if show.errors else ()
    return replace(show, answers=show.answers[:1], end="closed", access=own(show), errors=errors)


def silent(_case: Case, show: Seen) -> Seen:
    return replace(show, answers=(), end="silent", access=show.access[:-1])


def restarted(case: Case, show: Seen) -> Seen:
    first, *others = show.answers
    dropped = {"X-First: 1", "Content-Length: 8"}
    fields = [line for line in first.fields if line not in dropped]
    if case.says(again="8"):
        fields.append("Content-Length: 8")
    elif case.methods == ["GET"]:
        fields.insert(3, "Transfer-Encoding: chunked")
        first = first._replace(framing="chunked")
    return replace(show, answers=(first._replace(fields=tuple(fields)), *others))


BETTER = (
    Better(
        "A body that is shorter than its Content-Length breaks the connection off, and is logged:"
        " the next response would be taken for its rest.",
        lambda case: case.missing > 0 and not case.empty and case.says(fail="|close"),
        stock="corrupt",
        ours="broken off",
        instead=short,
    ),
    Better(
        "A file without a Content-Length goes out in chunks, of which an empty file has none:"
        " as an empty chunk it ends the response, and the final chunk is left over.",
        lambda case: case.says(body="file", length="") and case.size == 0 and not case.empty,
        stock="corrupt",
        ours="kept",
        instead=kept,
    ),
    Better(
        "A file never goes beyond the Content-Length, whatever was written before it.",
        lambda case: case.says(body="written file", length="4|5"),
        stock="corrupt",
        ours="kept",
        instead=kept,
    ),
    Better(
        "What a client has sent is printable in the access log.",
        lambda case: b"%00" in case.data,
        stock="",
        ours="",
        instead=lambda _, show: replace(show, access=tuple(map(printable, show.access))),
    ),
    Better(
        "The access log tells how many bytes of a file were sent.",
        lambda case: b"file" in case.data and not case.says(field="Content-Length:-1"),
        stock="",
        ours="",
        instead=counted,
    ),
    Better(
        "What start_response says with exc_info replaces what it said before (PEP 3333).",
        lambda case: case.says(restart="started") and not case.says(field="", length=""),
        stock="kept",
        ours="kept",
        instead=restarted,
    ),
    Better(
        "The head leaves with the first chunk: one that is no bytes object is an error page.",
        lambda case: case.says(body="bytes|text|bytearray"),
        stock="broken off",
        ours="closed",
        instead=failed,
    ),
    Better(
        "An OSError of the application's own, before the head, is an error page: a broken pipe"
        " is the client's only on the client's socket.",
        lambda case: case.says(error="os|pipe", fail="call|started|first"),
        stock="silent",
        ours="closed",
        instead=failed,
    ),
    Better(
        "After the head it breaks the body off, and is logged like any other.",
        lambda case: case.says(error="os|pipe", fail="mid|last|written|close"),
        stock="",
        ours="",
        instead=named_so,
    ),
    Better(
        "An error page has no body if the request was a HEAD (RFC 9110, section 9.3.2).",
        lambda case: (
            (
                case.methods == ["HEAD"]
                and case.says(fail="call|started|first", error="exception")
                and not case.says(fail="")
            )
            or head("a line too long, HEAD", "too many fields, HEAD", "bad version, HEAD")(case)
        ),
        stock="corrupt",
        ours="closed",
        instead=without_body,
    ),
    Better(
        "A body that ends before its length, or before its last chunk, is an error where it is"
        " read: half of an upload must not look whole.",
        lambda case: (
            (
                b"Content-Length: 500\r\n" in case.data
                and case.says(read="all|4|lines|items|twice|careless")
            )
            or (b"fff\r\n01234" in case.data and case.says(read="all|4"))
        ),
        stock="",
        ours="closed",
        instead=broken,
    ),
    Better(
        "A response says that the connection closes, if it will because of a malformed body.",
        lambda case: case.says(read="careless") and case.name.partition(":")[0] in MALFORMED,
        stock="closed",
        ours="closed",
        instead=closing,
    ),
    Better(
        "HTTP/1.1 without a Host is refused (RFC 9112, section 3.2).",
        head("no host", "no host, HEAD", "absolute form without a host"),
        stock="kept",
        ours="closed",
        instead=refused("Invalid HTTP Header: 'HOST'", known=True),
    ),
    *(
        Better(
            f"So is one that is not valid: {host}.",
            head(f"host: {host}"),
            stock="kept",
            ours="closed",
            instead=refused(f"Invalid HTTP Header: 'HOST: {host}'", known=True),
        )
        for host in BAD_HOSTS
    ),
    Better(
        "A target in absolute form replaces Host (RFC 9112, section 3.2.2).",
        head("absolute form"),
        stock="kept",
        ours="kept",
        instead=sees('"HTTP_HOST": "test"', '"HTTP_HOST": "other:81"'),
    ),
    Better(
        "The same without a path.",
        head("absolute form without a path"),
        stock="kept",
        ours="kept",
        instead=sees('"HTTP_HOST": "test"', '"HTTP_HOST": "other"'),
    ),
    Better(
        "The same where HTTP/1.0 has no Host.",
        head("absolute form in 1.0"),
        stock="closed",
        ours="closed",
        instead=sees('{\n "PATH', '{\n "HTTP_HOST": "other",\n "PATH'),
    ),
    *(
        Better(
            f"A target that has no authority, or none that is valid, is refused: {target}.",
            head(f"target: {target}"),
            stock="kept",
            ours="closed",
            instead=refused(f"Invalid HTTP request line: '{target}'", known=False),
        )
        for target in BAD_TARGETS
    ),
    Better(
        "An empty Host is valid only where the target has no authority (RFC 9112, section 3.2).",
        head("absolute form with an empty host"),
        stock="kept",
        ours="closed",
        instead=refused("Invalid HTTP Header: 'HOST: '", known=True),
    ),
    Better(
        "CONNECT has a target in authority form and no other (RFC 9112, section 3.2.3).",
        lambda case: case.methods[-1:] == ["CONNECT"] and b" other:443 " not in case.data,
        stock="closed",
        ours="closed",
        instead=lambda case, show: refused(
            f"Invalid HTTP request line: '{case.data.split()[1].decode()}'", known=False
        )(case, replace(show, journal=())),
    ),
    Better(
        "Such a target has neither path nor query (RFC 9112, section 3.3).",
        head("authority"),
        stock="closed",
        ours="closed",
        instead=tunnel,
    ),
    *(
        Better(
            f"A request of a higher minor version is one of HTTP/1.1: {version}.",
            head(f"version {version}"),
            stock="kept",
            ours="kept",
            instead=sees(f"HTTP/{version}", "HTTP/1.1"),
            parsers=("python",),  # gunicorn_h1c refuses it
        )
        for version in ("1.2", "1.9")
    ),
    Better(
        "An error that is no Exception, a gevent.Timeout say, breaks off a body that has begun:"
        " an error page would be taken for more of it, or for the next response.",
        lambda case: case.says(error="timeout|base", fail="mid|last|written") and not whole(case),
        stock="corrupt",
        ours="broken off",
        instead=logged,
    ),
    Better(
        "The same after a whole body.",
        lambda case: case.says(error="timeout|base", fail="last|written|close") and whole(case),
        stock="closed",
        ours="closed",
        instead=alone,
    ),
    Better(
        "GreenletExit ends the connection: half of a response may not be followed by another.",
        lambda case: case.says(error="greenlet-exit", fail="mid|last|written") and not whole(case),
        stock="corrupt",
        ours="broken off",
        instead=broken_off,
    ),
    Better(
        "The same after a whole body.",
        lambda case: case.says(error="greenlet-exit", fail="last|written|close") and whole(case),
        stock="kept",
        ours="closed",
        instead=alone,
    ),
    Better(
        "A request that SystemExit or GreenletExit leaves without an answer ends the connection:"
        " the next request's answer would be taken for its own.",
        lambda case: case.says(error="exit|greenlet-exit", fail="call|started|first"),
        stock="kept",
        ours="silent",
        instead=silent,
    ),
)


def whole(case: Case) -> bool:
    """Whether a response whose application fails is whole by then."""
    return case.says(fail="close") or case.says(fail="last|written", length="8")
