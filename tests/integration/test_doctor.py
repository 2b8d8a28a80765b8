"""``vento-wsgi doctor`` with a real server, and with proxies that are set up right and wrong.

Each finding is shown once where it is, and is absent where all is well: the findings are
compared as a whole.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.proxies import proxy
from support.servers import ROOT, eventually, free_port, serve

from vento_wsgi.cli import main
from vento_wsgi.cli.doctor import findings

TEXT = random.Random(8).randbytes(60_000).hex()
Doctor = Callable[..., Any]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command; its report, after its exit status has been found to fit."""

    def run(url: str, *options: str, seconds: float = 0.4) -> Any:
        status = main(["doctor", url, "--json", "--seconds", str(seconds), *options])
        told = json.loads(capsys.readouterr().out)
        assert status == (2 if "error" in told else 0 if told["healthy"] else 1)
        assert "error" in told or told["healthy"] == (not told["findings"])
        return told

    return run


def codes(told: Any) -> list[str]:
    return [finding["code"] for finding in told["findings"]]


@pytest.fixture
def finds(doctor: Doctor) -> Doctor:
    """The report whose findings are `wrong`.

    A busy machine makes bursts and silences of its own. So there are several looks, each of them
    twice as long as that before.
    """

    def run(url: str, wrong: list[str], *options: str, seconds: float = 0.4) -> Any:
        looks = []
        for _ in range(5):
            told = doctor(url, *options, seconds=seconds)
            if codes(told) == wrong:
                return told
            looks.append(told)
            seconds *= 2
        pytest.fail(f"never {wrong}: {looks}")

    return run


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's own address."""
    tmp = tmp_path_factory.mktemp("behind")
    (tmp / "file.txt").write_text(TEXT)
    env = {"FILES": str(tmp)}
    with serve("gunicorn-StreamWorker", "apps.doctor_app:app", tmp=tmp, env=env) as running:
        yield f"http://127.0.0.1:{running.port}"


# The server itself.


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/pulse", []),
        ("/plain", []),
        ("/rows", []),
        ("/late", []),
        ("/file", []),
        ("/beats?every=0.1", []),
        ("/batches", ["buffering"]),
        ("/deaf", ["resume"]),
        ("/deaf?clock=1", ["resume"]),
        ("/mute?refuses=1", ["resume"]),
        ("/mute", ["resume"]),
        ("/silent", ["silent"]),
        ("/fails", ["broken"]),
        ("/measured", ["length"]),
        ("/headers?Age=20", ["cached"]),
        ("/headers?X-Cache=HIT", ["cached"]),
        ("/headers?X-Cache=MISS", []),
        ("/headers?Via=1.0+squid", ["downgrade"]),
        ("/headers?Via=1.1+squid", []),
        ("/unranged", ["range"]),
    ],
)
def test_what_is_wrong_with_a_response_is_found(
    path: str, wrong: list[str], behind: str, finds: Doctor
) -> None:
    finds(f"{behind}{path}", wrong, seconds=0.8 if path == "/batches" else 0.3)


def test_a_late_first_byte_is_found(
    behind: str, finds: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "LATE", 0.2)
    finds(f"{behind}/late?by=0.3", ["late"], seconds=0.6)
    finds(f"{behind}/late?by=0", [])


def test_a_silence_without_heartbeats_is_found(
    behind: str, finds: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "QUIET", 0.3)
    finds(f"{behind}/beats?every=0", ["quiet"], seconds=0.6)
    finds(f"{behind}/beats?every=0.1", [], seconds=0.6)


def test_the_interval_of_heartbeats_is_told(behind: str, doctor: Doctor) -> None:
    beats = f"{behind}/beats?every=0.1"
    eventually(lambda: 0.09 < (doctor(beats, seconds=1)["heartbeat"] or 0) < 0.4)
    assert doctor(f"{behind}/pulse")["heartbeat"] is None


def test_the_report_tells_the_rest(behind: str, doctor: Doctor, finds: Doctor) -> None:
    told = finds(f"{behind}/pulse", [], seconds=1)
    assert told["kind"] == "events"
    assert told["proxies"][-1].startswith("gunicorn/")
    assert told["proxies"][-1].endswith("(reached by HTTP/1.1)")
    assert told["response"]["version"] == "1.1"
    assert told["items"] > 5
    assert 0.005 < told["interval"] < told["seconds"]
    assert told["last_event_id"] == "honoured"
    assert told["ended"] is None
    assert 0 < told["head"] <= told["first_byte"] < told["seconds"]
    ended = doctor(f"{behind}/rows?count=3", seconds=30)
    assert (ended["ended"], ended["items"]) == ("whole", 3)
    assert any("ended normally" in note for note in ended["notes"])


def test_what_a_response_is_can_be_said(behind: str, finds: Doctor) -> None:
    finds(f"{behind}/unranged", ["length"], "--as", "stream")
    assert finds(f"{behind}/file", [])["kind"] == "file"


def test_headers_are_sent_in_place_of_ours(behind: str, finds: Doctor) -> None:
    headers = ("--header", "Last-Event-ID: 5", "--header", "Accept: */*")
    finds(f"{behind}/deaf", ["resume"], *headers)


def test_a_sync_worker_is_found(tmp_path: Path, doctor: Doctor) -> None:
    with serve("gunicorn-sync", "apps.doctor_app:app", tmp=tmp_path) as running:
        url = f"http://127.0.0.1:{running.port}/pulse"
        eventually(lambda: "threads" in codes(doctor(url)))


# Through nginx.

NGINX = """\
server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location /right/    {{ proxy_pass {behind}/; proxy_buffering off; }}
    location /trusting/ {{ proxy_pass {behind}/; }}
    location /old/      {{ proxy_pass {behind}/; proxy_http_version 1.0; }}
    location /buffered/ {{
        proxy_pass {behind}/; proxy_http_version 1.0; proxy_ignore_headers X-Accel-Buffering;
    }}
    location /gzip/     {{
        proxy_pass {behind}/; proxy_ignore_headers X-Accel-Buffering;
        gzip on; gzip_types *;
    }}
    location /flushed/  {{ proxy_pass {behind}/; proxy_buffering off; gzip on; gzip_types *; }}
    location /short/    {{ proxy_pass {behind}/; proxy_read_timeout 1s; }}
    location /gone/     {{ proxy_pass http://127.0.0.1:1/; }}
}}
"""


@pytest.fixture(scope="module")
def nginx(behind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    settings = NGINX.format(port=port, behind=behind)
    with proxy("nginx", settings, tmp_path_factory.mktemp("nginx"), port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/right/pulse", []),
        ("/right/plain", []),
        ("/right/rows", []),
        ("/right/file", []),
        ("/trusting/pulse", []),
        ("/buffered/pulse", ["buffering", "downgrade"]),
        ("/buffered/plain", ["buffering"]),
        ("/buffered/rows", ["buffering"]),
        ("/gzip/pulse", ["compression"]),
        ("/gzip/file", ["unsized"]),
        ("/flushed/pulse", []),
        ("/old/pulse", ["downgrade"]),
        ("/short/beats", ["cut"]),
        ("/short/beats?every=0.1", []),
    ],
)
def test_what_nginx_does_is_found(path: str, wrong: list[str], nginx: str, finds: Doctor) -> None:
    patient = "buffered" in path or "short" in path
    told = finds(f"{nginx}{path}", wrong, seconds=1.3 if patient else 0.4)
    assert told["proxies"][0].startswith("nginx/")
    for finding in told["findings"]:
        assert next(iter(finding["fixes"])) == "nginx", "what shows itself comes first"


def test_what_was_held_back_is_measured(nginx: str, finds: Doctor) -> None:
    told = finds(f"{nginx}/buffered/pulse", ["buffering", "downgrade"], seconds=1.3)
    assert told["bursts"]["sure"]
    assert told["bursts"]["held"] > 0.3
    assert told["bursts"]["size"] > 3500, "nginx has buffers of 4096 bytes"
    assert not finds(f"{nginx}/buffered/plain", ["buffering"], seconds=1.3)["bursts"]["sure"]


# Through haproxy.

HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen delays
    bind 127.0.0.1:{delays}
    server app {address}
listen right
    bind 127.0.0.1:{right}
    option http-no-delay
    server app {address}
listen waits
    bind 127.0.0.1:{waits}
    http-response wait-for-body time 9s at-least 2000
    server app {address}
listen short
    bind 127.0.0.1:{short}
    timeout server 700ms
    server app {address}
listen gzip
    bind 127.0.0.1:{gzip}
    compression algo gzip
    compression type text/event-stream text/plain
    server app {address}
"""


@pytest.fixture(scope="module")
def haproxy(behind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    ports = {name: free_port() for name in ("right", "delays", "waits", "short", "gzip")}
    settings = HAPROXY.format(**ports, address=behind.removeprefix("http://"))
    with proxy("haproxy", settings, tmp_path_factory.mktemp("haproxy"), ports["right"]):
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


@pytest.mark.parametrize(
    ("name", "path", "wrong"),
    [
        ("right", "/pulse", []),
        ("right", "/plain", []),
        ("right", "/file", []),
        ("waits", "/pulse", ["buffering"]),
        ("short", "/beats", ["cut"]),
        ("right", "/beats?every=0.1", []),
        ("gzip", "/pulse", []),
        ("gzip", "/file", ["unsized"]),
    ],
)
def test_what_haproxy_does_is_found(
    name: str, path: str, wrong: list[str], haproxy: dict[str, str], finds: Doctor
) -> None:
    seconds = 1 if name in ("waits", "short") else 0.4
    told = finds(f"{haproxy[name]}{path}", wrong, seconds=seconds)
    for finding in told["findings"]:
        assert "haproxy" in finding["fixes"], "it never shows itself"
    if (name, path) == ("gzip", "/pulse"):
        assert "the stream is compressed (gzip), and flushed after each item" in told["notes"]


def delayed(told: Any) -> bool:
    return any("option http-no-delay" in note for note in told["notes"])


def test_the_delay_of_small_chunks_is_told(haproxy: dict[str, str], doctor: Doctor) -> None:
    for name, delays in (("right", False), ("delays", True)):
        url = f"{haproxy[name]}/beats"
        eventually(lambda: delayed(doctor(url)) is delays)  # noqa: B023


# Through Apache.

APACHE = """\
Listen 127.0.0.1:{port}
ProxyPass /right/ {behind}/
ProxyPass /filtered/ {behind}/
ExtFilterDefine held mode=output cmd="/usr/bin/tr A-Z A-Z"
<Location /filtered/>
    SetOutputFilter held
</Location>
ProxyPass /gzip/ {behind}/
ProxyPass /old/ {behind}/
ProxyPass /short/ {other}/ timeout=1
ProxyVia On
<Location /gzip/>
    SetOutputFilter DEFLATE
</Location>
<Location /old/>
    SetEnv downgrade-1.0 1
    SetEnv force-response-1.0 1
</Location>
"""


@pytest.fixture(scope="module")
def apache(behind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    other = behind.replace("127.0.0.1", "localhost")
    settings = APACHE.format(port=port, behind=behind, other=other)
    with proxy("apache", settings, tmp_path_factory.mktemp("apache"), port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/right/pulse", []),
        ("/right/plain", []),
        ("/right/file", []),
        ("/filtered/plain", ["buffering"]),
        ("/gzip/pulse", []),
        ("/gzip/file", ["unsized"]),
        ("/old/pulse", ["downgrade"]),
        ("/short/beats", ["cut"]),
    ],
)
def test_what_apache_does_is_found(path: str, wrong: list[str], apache: str, finds: Doctor) -> None:
    slow = "short" in path or "filtered" in path
    told = finds(f"{apache}{path}", wrong, seconds=2 if slow else 0.4)
    for finding in told["findings"]:
        assert "Apache" in finding["fixes"]


@pytest.mark.parametrize("name", ["nginx", "haproxy", "apache"])
def test_the_settings_of_the_readme_are_healthy(
    name: str, behind: str, tmp_path: Path, finds: Doctor
) -> None:
    (settings,) = re.findall(
        rf"^```{name}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    port = free_port()
    settings = settings.replace("127.0.0.1:8000", behind.removeprefix("http://"))
    settings = settings.replace("listen 80;", f"listen 127.0.0.1:{port};")
    settings = settings.replace("bind :80", f"bind 127.0.0.1:{port}")
    if name == "apache":
        settings = f"Listen 127.0.0.1:{port}\n{settings}"
    with proxy(name, settings, tmp_path, port):
        eventually(lambda: not delayed(finds(f"http://127.0.0.1:{port}/pulse", [])))
        finds(f"http://127.0.0.1:{port}/file", [])


# What cannot be looked at.


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nowhere", "'nowhere' is no URL: write http://host/path or https://host/path"),
        ("ftp://127.0.0.1/", "is no URL: write http://"),
        ("http:///path", "is no URL: write http://"),
        ("http://127.0.0.1/\udcff", "is no URL: 'utf-8' codec can't encode"),
        ("http://127.0.0.1:99999/", "is no URL: Port out of range"),
        ("http://[::1/", "is no URL: Invalid IPv6 URL"),
        ("http://a:b@127.0.0.1/", "give a password as --header"),
        ("http://no-such-host.invalid/", "there is no host 'no-such-host.invalid'"),
        ("http://a..b/", "there is no host 'a..b'"),
        ("http://127.0.0.1:1/", "127.0.0.1:1 refuses connections: nothing listens there"),
    ],
)
def test_a_url_that_leads_nowhere_is_said(url: str, why: str, doctor: Doctor) -> None:
    assert why in doctor(url)["error"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (204, "204 NO CONTENT from gunicorn: there is nothing to read"),
        (302, "302 FOUND from gunicorn: give the URL that it leads to, '/pulse'"),
        (401, "401 UNAUTHORIZED from gunicorn: give credentials with --header"),
        (404, "404 NOT FOUND from gunicorn"),
        (504, "504 GATEWAY TIMEOUT from gunicorn: the server behind the proxy was silent"),
    ],
)
def test_an_answer_that_is_no_stream_is_said(
    code: int, why: str, behind: str, doctor: Doctor
) -> None:
    assert doctor(f"{behind}/status/{code}", seconds=30)["error"].startswith(why)


def test_a_proxy_with_nothing_behind_it_is_said(nginx: str, doctor: Doctor) -> None:
    error = doctor(f"{nginx}/gone/", seconds=30)["error"]
    assert error.startswith("502 Bad Gateway from nginx/")
    assert "the proxy has no server behind it" in error


@contextmanager
def answering(*answers: bytes, certificate: Path | None = None) -> Iterator[str]:
    """A server of the bytes that it is given, one connection after the other."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    def serve_one(answer: bytes) -> None:
        client, _ = listening.accept()
        try:
            client = context.wrap_socket(client, server_side=True) if context else client
            client.recv(1 << 16)
            client.sendall(answer)
        finally:
            client.close()

    def serve_all() -> None:
        for answer in answers:
            with suppress(OSError):  # who asks may leave, and the last may never be asked for
                serve_one(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        run = threading.Thread(target=serve_all, daemon=True)
        run.start()
        scheme = "http" if certificate is None else "https"
        yield f"{scheme}://localhost:{listening.getsockname()[1]}/"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed the connection without a response; does it speak https?"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP/1: 'SSH-2.0-OpenSSH'"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "a chunk without a valid size",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nxyz", "encoded as 'br'"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nxyz", "Content-Encoding is gzip, but"),
    ],
)
def test_what_is_no_http_is_said(answer: bytes, why: str, doctor: Doctor) -> None:
    with answering(answer) as url:
        assert why in doctor(url, seconds=30)["error"]


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
BODY = OK + b"Content-Length: 9\r\n\r\ndata: x\n\n"
FILE = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nAccept-Ranges: bytes\r\n\r\n123456789"
NONE = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
PART = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-8/9\r\n\r\n"
PAST = b"HTTP/1.1 416 Range Not Satisfiable\r\n\r\n"


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ([OK + b"\r\ndata: x\n\n", OK + b"\r\n"], []),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\ndata: x\n\n", OK + b"\r\n"], []),
        ([OK + b"\r\ndata: x\n\n", OK + b"\r\ndata: x\n\n"], ["head"]),
        ([OK + b"\r\ndata: x\n\n", b""], ["head"]),
        ([OK + b"\r\ndata: x\n\n", b"HTTP/1.1 404 No\r\n\r\n"], ["head"]),
        ([OK + b"\r\ndata: x\n\n", b"HTTP/1.1 405 No\r\n\r\n"], []),
        ([OK.replace(b"1.1", b"1.0") + b"\r\ndata: x\n\n", OK + b"\r\n"], ["downgrade"]),
        ([FILE, NONE, PART + b"23456789", PAST], []),
        ([FILE, NONE.replace(b"9", b"8"), PART + b"23456789", PAST], ["head"]),
        ([FILE, NONE, FILE, FILE], ["range"]),
        ([FILE, NONE, PART + b"12345678", PAST], ["range"]),
        ([FILE, NONE, PART.replace(b"/9", b"/*") + b"23456789", PAST], ["range"]),
        ([FILE, NONE, PART + b"23456789", FILE], ["range"]),
    ],
)
def test_what_servers_do_wrong_is_found(
    answers: list[bytes], wrong: list[str], doctor: Doctor
) -> None:
    with answering(*answers) as url:
        assert codes(doctor(url, seconds=30)) == wrong  # they end by themselves


def test_a_server_without_an_answer_is_silent(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = doctor(f"http://127.0.0.1:{listening.getsockname()[1]}/", seconds=0.2)
    assert codes(told) == ["silent"]
    assert told["response"] is None


def test_certificates_are_checked(tmp_path: Path, doctor: Doctor) -> None:
    made = tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-out", str(made), "-keyout", str(tmp_path / "key.pem")),
        ],
        check=True,
        capture_output=True,
    )
    answers = [OK + b"\r\ndata: x\n\n", OK + b"\r\n"]
    with answering(*answers, certificate=made) as url:
        error = doctor(url, seconds=30)["error"]
        assert "self-signed certificate; --insecure ignores that" in error
    with answering(*answers, certificate=made) as url:
        assert codes(doctor(url, "--insecure", seconds=30)) == []
    with answering(*answers, certificate=made) as url:
        assert "https?" in doctor(url.replace("https:", "http:"), seconds=30)["error"]


def test_tls_with_a_plain_server_is_said(behind: str, doctor: Doctor) -> None:
    assert (
        "does it speak plain http?"
        in doctor(behind.replace("http:", "https:"), seconds=30)["error"]
    )


# Hostile servers, with the command as users run it.

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EVIL = "\x1b]0;x\x07\x9b31m"


def command(*arguments: str, code: str = "pass") -> subprocess.CompletedProcess[str]:
    """The command as a process, which has to end by itself. code: what runs before it."""
    start = f"import sys; {code}; from vento_wsgi.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", start, "doctor", "--seconds", "1", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )


@contextmanager
def hostile(*parts: bytes, endless: bytes = b"", pause: float = 0) -> Iterator[str]:
    """Sends `parts` to each client, and then `endless` until the client leaves."""
    flood = endless if pause or not endless else endless * (65536 // len(endless) + 1)

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            for part in parts:
                client.sendall(part)
            while endless or not parts:
                client.sendall(flood)
                time.sleep(pause)

    def serve_all() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve_all, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # wakes accept()


def length(value: bytes) -> bytes:
    return OK + b"Content-Length: " + value + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "endless", "why"),
    [
        ([], b"HTTP/1.1 100 Continue\r\n\r\n", "64 KB of heads, and no final response"),
        ([], b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n", "64 KB of heads, and no final response"),
        ([OK], b"X: y\r\n", "64 KB of heads, and no final response"),
        ([b"HTTP/1.1 200 "], b"OK" * 50, "64 KB of heads, and no final response"),
        ([], b"HTTP" * 50, "does not speak HTTP/1"),
        ([length(b"9" * 5000)], b"data: x\n\n", "its Content-Length is invalid: '999"),
        ([length(b"-5")], b"data: x\n\n", "its Content-Length is invalid: '-5'"),
        ([length(b"\xb2")], b"data: x\n\n", "its Content-Length is invalid"),
        ([length(b"5, 6")], b"data: x\n\n", "its Content-Length is invalid"),
        ([CHUNKED, b"5;"], b"x=y;" * 99, "a chunk header without an end: b'5;x=y"),
        ([CHUNKED], b"0" * 99, "a chunk header without an end: b'000"),
        ([CHUNKED], b"-5\r\n", "a chunk without a valid size: b'-5"),
        ([CHUNKED], b"0x5\r\n", "a chunk without a valid size: b'0x5"),
        ([CHUNKED], b"9" * 99 + b"\r\n", "a chunk without a valid size: b'999"),
        ([CHUNKED], b"\r\n", "a chunk without a valid size: b'"),
        ([CHUNKED], b"5\r\ndata:::\r\n", "a chunk is longer than its size: b'::"),
        ([CHUNKED, b"0\r\n"], b"X: y\r\n", "trailers without an end: b'"),
        ([b"HTTP/1.1 302 On\r\nLocation: /\r\n\r\n"], b"", "give the URL that it leads to, '/'"),
        ([f"HTTP/1.1 500 {EVIL}\r\nServer: {EVIL}\r\n\r\n".encode()], b"", "500 "),
        ([f"HTTP/1.1 302 {EVIL}\nx\r\nLocation: {'x' * 60000}\r\n\r\n".encode()], b"", "302 "),
        ([OK + b"Content-Encoding: \x1b[31m\r\n\r\n"], b"x", "it is encoded as "),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    parts: list[bytes], endless: bytes, why: str
) -> None:
    with hostile(*parts, endless=endless) as url:
        done = command(url, "--seconds", "30")
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vento-wsgi doctor: ")
    assert why in line
    assert line.isprintable()
    assert len(line) < 600


TRICKLES: list[tuple[list[bytes], bytes]] = [
    ([], b"H"),
    ([], b"HTTP/1.1 100 Continue\r\n\r\n"),
    ([OK], b"X: y\r\n"),
    ([CHUNKED], b"0"),
    ([CHUNKED, b"5;"], b"x"),
    ([CHUNKED, b"0\r\n"], b"X: y\r\n"),
    ([CHUNKED], b"1\r\n:\r\n"),
    ([length(b"9" * 15)], b"d"),
]


def test_a_server_that_trickles_does_not_put_off_the_end() -> None:
    def examined(case: tuple[list[bytes], bytes]) -> tuple[int, str]:
        parts, endless = case
        with hostile(*parts, endless=endless, pause=0.1) as url:
            done = command(url, "--seconds", "1")
        return done.returncode, done.stderr

    with ThreadPoolExecutor() as pool:  # side by side, since each waits for several seconds
        for case, (status, said) in zip(TRICKLES, pool.map(examined, TRICKLES)):
            assert status in (0, 1), case
            assert said == "", case


def squeezed(data: bytes) -> bytes:
    return gzip.compress(data * (2**25 // len(data)))


GZIP = OK + b"Content-Encoding: gzip\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        (CHUNKED, b"1\r\n\n\r\n"),
        (CHUNKED, b"8;x=y\r\ndata: \n\n\r\n"),
        (OK + b"\r\n", b"data: x\n\n"),
        (OK + b"\r\n", b"\n"),
        (OK + b"\r\n", b":"),
        (length(b"9" * 18), b"data: x\n\n"),
        (OK.replace(b"event-stream", b"plain") + b"\r\n", b"x"),
        (OK.replace(b"event-stream", b"plain") + b"\r\n", b"x\n"),
        (OK.replace(b"text/event-stream", b"image/png") + b"\r\n", b"x"),
        (GZIP, squeezed(b"\n")),
        (GZIP, squeezed(b"data: x\n\n")),
        (GZIP.replace(b"event-stream", b"plain"), squeezed(b"x")),
        (GZIP.replace(b"event-stream", b"plain"), squeezed(b"\n")),
    ],
)
def test_a_server_that_floods_does_not_put_off_the_end(head: bytes, endless: bytes) -> None:
    with hostile(head, endless=endless) as url:
        done = command(url)
    assert done.returncode in (0, 1, 2), done.stderr
    if done.returncode == 2:
        assert len(done.stderr.splitlines()) == 1
    else:
        assert done.stderr == ""
    assert "Traceback" not in done.stderr


def test_tls_that_never_completes_is_said() -> None:
    for endless in (b"", b"\x16"):  # nothing, and a record that never ends
        with hostile(
            b"\x16\x03\x03\x40\x00" if endless else b"", endless=endless, pause=0.1
        ) as url:
            done = command(url.replace("http:", "https:"))
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("vento-wsgi doctor: TLS with 127.0.0.1:")


def test_name_servers_that_never_answer_are_said() -> None:
    hanging = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(3600)"
    done = command("http://example.invalid/", code=hanging)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("no connection to example.invalid:80: name servers do not answer")


def test_nothing_of_a_server_reaches_the_terminal_or_the_json_raw() -> None:
    seen = json.dumps({"seen": {"server": f"{EVIL}\ud800", "protocol": EVIL}})
    names = ("Server", "Age", "X-Cache", "CF-Cache-Status", "X-Served-By", "Via", "Cache-Control")
    fields = "".join(f"{name}: {EVIL} hit {'x' * 300}, 1.0 {EVIL}\r\n" for name in names)
    events = f"data: {seen}\n\nid: {EVIL}\u202e\ndata: x\n\nid: b{EVIL}\ndata: x\n\n"
    head = f"HTTP/1.1 200 {EVIL}\r\nContent-Type: text/event-stream; {EVIL}\r\n{fields}"
    answer = f"{head}Transfer-Encoding: {EVIL}\r\n\r\n{events}".encode()
    with hostile(answer) as url:
        done = command(url)
        assert done.returncode == 1, done
        assert all(map(str.isprintable, done.stdout.split("\n")))
        assert "\\x1b]0;x" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100
        told = json.loads(command(url, "--json").stdout)
    json.dumps(told, ensure_ascii=False).encode()  # it is all Unicode text
    assert any(EVIL in proxy for proxy in told["proxies"])


# What is said.


def test_the_report_is_readable(nginx: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{nginx}/buffered/pulse", "--seconds", "4"]) == 1
    said = capsys.readouterr().out
    assert "  proxies   nginx/" in said
    assert ", in bursts\n" in said
    assert "\n! buffering: events come in bursts, up to " in said
    assert "    nginx     proxy_buffering off; in the location" in said
    assert said.endswith("\n2 findings\n")
    assert max(map(len, said.splitlines())) <= 100
    assert "\x1b" not in said, "it is no terminal"
    eventually(lambda: main(["doctor", f"{nginx}/right/pulse", "--seconds", "0.5"]) == 0)
    said = capsys.readouterr().out
    assert ", one by one, " in said
    assert said.endswith("\nhealthy\n")


def test_what_a_server_says_does_not_reach_the_terminal_raw(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = OK + b"Server: \x1b]0;x\x07\r\nAge: \x1b[31m\r\n\r\ndata: x\n\n"
    with answering(answer, OK + b"\r\n") as url:
        assert main(["doctor", url, "--seconds", "30"]) == 1
    assert "\x1b" not in capsys.readouterr().out
