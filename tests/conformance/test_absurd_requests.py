"""Absurd dates, lengths, numbers, charsets and bytes are refused or read, and never a 500."""

from collections.abc import Iterator

import pytest
from conformance.differential.better import PARSERS
from support.servers import STREAM_WORKER, Running, connect, serve


@pytest.fixture(scope="module", params=PARSERS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    parser = f"--http-parser={request.param}"
    options = ("--limit-request-line=0", "--limit-request-field_size=0", parser)
    tmp = tmp_path_factory.mktemp("absurd")
    with serve(STREAM_WORKER, "apps.absurd:app", tmp=tmp, options=options) as running:
        yield running


NINES = b"9" * 5_000

DATES = [
    b"Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
    b"Mon, 01 Jan 2024 00:00:00 -" + NINES,
    b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    b"Mon, 01 Jan 0000 00:00:00 GMT",
    b"Fri, 31 Dec 9999 23:59:60 GMT",
    b"Fri, 31 Feb 2024 23:59:59 GMT",
    b"Sunday, 99-Nov-94 99:99:99 GMT",
    b"Sun Nov  0 08:49:37 0000",
    NINES,
]
RANGES = [
    b"bytes=" + NINES + b"-",
    b"bytes=0-" + NINES,
    b"bytes=-" + NINES,
    b"bytes=" + b"0-1," * 1000,
    b"bytes=\xd9\xa1-\xd9\xa2",
    b"\xff=1-2",
]
WEIGHTS = [
    b"text/html;q=" + NINES,
    b"gzip;q=1e999, br;q=nan, *;q=-1",
    b"text/html;level=" + NINES,
    b"," * 5_000,
    b";q=;q=;=",
    b'a;b="\\',
]
TEXTS = [
    b"",
    b"\xff\xfe\xc3",
    b"\xed\xa0\x80",
    b'"' * 999,
    b"a*=utf-8''%ff; a*0*=x; a*" + NINES + b"=y",
    b'a=1; b="\\777\\400\\x"; ; =; =c',
    b"Basic \xff",
    b"Basic YYYYY",
    b'Digest a="',
    b"max-age=" + NINES,
    b"W/",
    b"%zz%",
    *DATES,
    *RANGES,
    *WEIGHTS,
]
FIELDS = [
    *("Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization"),
    *("Access-Control-Request-Headers", "Access-Control-Request-Method", "Cache-Control"),
    *("Content-Encoding", "Content-Type", "Cookie", "Date", "If-Match", "If-Modified-Since"),
    *("If-None-Match", "If-Range", "If-Unmodified-Since", "Last-Event-ID", "Max-Forwards"),
    *("Origin", "Pragma", "Range", "Referer", "User-Agent", "X-Forwarded-For"),
]


def statuses(running: Running, *requests: bytes) -> list[int]:
    """The status of each of the requests, one connection for all that leave it open."""
    found = []
    raw = connect(running)
    try:
        for request in requests:
            raw.send(request)
            head = raw.read_head()
            assert raw.read_all().complete
            found.append(head.status)
            if head.headers.get("Connection") == "close":
                raw.close()
                raw = connect(running)
    finally:
        raw.close()
    return found


def get(target: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: test", *fields, b"", b""])


def post(body: bytes, content_type: bytes) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


def calm(running: Running, before: str) -> None:
    """Nothing went wrong in the server since."""
    assert "Traceback" not in running.log().removeprefix(before)


@pytest.mark.parametrize("name", FIELDS)
def test_no_value_of_a_header_field_is_a_server_error(running: Running, name: str) -> None:
    before = running.log()
    for target in (b"/", b"/file"):
        requests = [get(target, name.encode() + b": " + text) for text in TEXTS]
        found = statuses(running, *requests)
        assert [status for status in found if status >= 500] == []
    calm(running, before)


@pytest.mark.parametrize("name", ["If-Modified-Since", "If-Unmodified-Since", "If-Range"])
@pytest.mark.parametrize("date", DATES)
def test_a_date_that_is_none_is_ignored(running: Running, name: str, date: bytes) -> None:
    # RFC 9110, sections 13.1.3 to 13.1.5: as if the field were not there, or as an unknown tag
    assert statuses(running, get(b"/file", name.encode() + b": " + date)) == [200]


@pytest.mark.parametrize("range", RANGES)
def test_a_range_of_absurd_numbers_is_ignored_or_not_satisfiable(
    running: Running, range: bytes
) -> None:
    (status,) = statuses(running, get(b"/file", b"Range: " + range))
    assert status in (200, 206, 416)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/int/" + NINES, 404),
        (b"/int/-1", 200),  # it is of the route for any path
        (b"/int/%D9%A1%D9%A2", 200),
        (b"/float/" + NINES + b".0", 404),
        (b"/float/1." + NINES, 200),
        (b"/%ff%fe", 200),
        (b"/%", 200),
        (b"/%zz%C3", 200),
        (b"/%00%0a%0d", 404),
        (b"/?%ff=%fe&%=%zz&" + NINES, 200),
        (b"/?\xff=\xfe&q=\xc3", 200),
        (b"/?lastEventId=%00", 200),
        (b"/?lastEventId=" + NINES, 200),
    ],
)
def test_no_path_and_no_query_is_a_server_error(
    running: Running, target: bytes, status: int
) -> None:
    before = running.log()
    (found,) = statuses(running, get(target))
    assert found < 500
    assert found == status or found == 400
    calm(running, before)


@pytest.mark.parametrize(
    "host", [b"xn--" + b"a" * 3000, b"xn--\xff", b"localhost:" + NINES, b"[::1", b"\xc3\xa9.test"]
)
def test_no_host_is_a_server_error(running: Running, host: bytes) -> None:
    before = running.log()
    (found,) = statuses(running, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert found in (200, 400)
    calm(running, before)


@pytest.mark.parametrize(
    "length", [NINES, b"-" + NINES, b"+5", b"1_0", b"\xd9\xa1", b"", b"5, 5", b"0x5", b"1e3"]
)
def test_a_content_length_that_is_no_number_is_a_400(running: Running, length: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: %b\r\n\r\n"
    (found,) = statuses(running, head % length)
    assert found == 400 or (length == NINES and found == 413)


@pytest.mark.parametrize(
    "body",
    [NINES, b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"', b"1e999999", b"-", b"\xff", b""],
    ids=lambda body: body[:8],
)
def test_no_json_is_a_server_error(running: Running, body: bytes) -> None:
    before = running.log()
    assert statuses(running, post(body, b"application/json")) == [200]
    calm(running, before)


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain; charset=" + NINES,
        b"text/plain; charset=\xff",
        b"text/plain; charset*=punycode''utf-8",
        b"text/plain; charset*0=utf; charset*1=-8; charset*" + NINES + b"=x",
        b"application/x-www-form-urlencoded; charset=punycode",
        b"application/x-www-form-urlencoded; charset=\xff",
        b"multipart/form-data",
        b"multipart/form-data; boundary=\xff",
        b"multipart/form-data; boundary=" + b"-" * 5_000,
        b'multipart/form-data; boundary="',
        b"multipart/form-data; boundary=x; charset=idna",
        b";;;==",
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b"a=%ff&%zz=\xff&" + NINES,
        (
            b'--x\r\nContent-Disposition: form-data; name="a\xff"\r\n'
            b"Content-Type: text/plain; charset=idna\r\n\r\nxn--\xff\r\n--x--\r\n"
        ),
        b"--x\r\nContent-Disposition: form-data; name*=punycode''a; filename*=idna''%ff\r\n"
        b"Content-Length: " + NINES + b"\r\n\r\n1\r\n--x--\r\n",
        b"--x\r\n\r\n\r\n--x\r\nA\r\n--x",
        b"--x--",
        b"",
    ],
    ids=lambda body: body[:8],
)
def test_no_form_is_a_server_error(running: Running, content_type: bytes, body: bytes) -> None:
    before = running.log()
    assert statuses(running, post(body, content_type)) == [200]
    calm(running, before)
