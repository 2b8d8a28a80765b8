"""``vento-wsgi doctor`` before a real server, and before proxies that are set right and wrong.

Each finding is shown once where it is, and is absent where all is well: the findings are
compared as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proxies import proxy
from servers import HERE, free_port, serve

from vento_wsgi.cli import main
from vento_wsgi.doctor import findings

TEXT = "a line of the file\n" * 50
STREAM = ("Content-Type", "text/event-stream")

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


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's own address."""
    tmp = tmp_path_factory.mktemp("behind")
    (tmp / "file.txt").write_text(TEXT)
    env = {"FILES": str(tmp)}
    with serve(
        "gunicorn-StreamWorker", "doctor_app:app", cwd=HERE / "apps", tmp=tmp, env=env
    ) as running:
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
    path: str, wrong: list[str], behind: str, doctor: Doctor
) -> None:
    told = doctor(f"{behind}{path}", seconds=0.8 if path == "/batches" else 0.3)
    assert codes(told) == wrong, told


def test_a_late_first_byte_is_found(
    behind: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "LATE", 0.2)
    assert codes(doctor(f"{behind}/late?by=0.3", seconds=0.6)) == ["late"]
    assert codes(doctor(f"{behind}/late?by=0")) == []


def test_a_silence_without_heartbeats_is_found(
    behind: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "QUIET", 0.3)
    assert codes(doctor(f"{behind}/beats?every=0", seconds=0.6)) == ["quiet"]
    assert codes(doctor(f"{behind}/beats?every=0.1", seconds=0.6)) == []


def test_the_interval_of_heartbeats_is_told(behind: str, doctor: Doctor) -> None:
    told = doctor(f"{behind}/beats?every=0.1", seconds=1)
    assert 0.09 < told["heartbeat"] < 0.4
    assert doctor(f"{behind}/pulse")["heartbeat"] is None


def test_the_report_tells_the_rest(behind: str, doctor: Doctor) -> None:
    told = doctor(f"{behind}/pulse")
    assert told["kind"] == "events"
    assert told["hops"][-1].startswith("gunicorn/")
    assert told["hops"][-1].endswith("(reached by HTTP/1.1)")
    assert told["answer"]["version"] == "1.1"
    assert told["items"] > 5
    assert 0.005 < told["interval"] < 0.1
    assert told["last_event_id"] == "honoured"
    assert told["ended"] is None
    assert 0 < told["head"] <= told["first_byte"] < told["seconds"]
    ended = doctor(f"{behind}/rows?count=3")
    assert (ended["ended"], ended["items"]) == ("whole", 3)
    assert any("ended by itself" in note for note in ended["notes"])


def test_what_a_response_is_can_be_said(behind: str, doctor: Doctor) -> None:
    assert codes(doctor(f"{behind}/unranged", "--as", "stream")) == ["length"]
    assert doctor(f"{behind}/file")["kind"] == "file"


def test_headers_are_sent_in_place_of_ours(behind: str, doctor: Doctor) -> None:
    told = doctor(f"{behind}/deaf", "--header", "Last-Event-ID: 5", "--header", "Accept: */*")
    assert codes(told) == ["resume"]


def test_a_sync_worker_is_found(tmp_path: Path, doctor: Doctor) -> None:
    with serve("gunicorn-sync", "doctor_app:app", cwd=HERE / "apps", tmp=tmp_path) as running:
        told = doctor(f"http://127.0.0.1:{running.port}/pulse")
    assert "threads" in codes(told)


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
    location /short/    {{ proxy_pass {behind}/; proxy_read_timeout 400ms; }}
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
def test_what_nginx_does_is_found(path: str, wrong: list[str], nginx: str, doctor: Doctor) -> None:
    patient = "buffered" in path or "short" in path
    told = doctor(f"{nginx}{path}", seconds=1.3 if patient else 0.4)
    assert codes(told) == wrong, told
    assert told["hops"][0].startswith("nginx/")
    for finding in told["findings"]:
        assert next(iter(finding["cures"])) == "nginx", "what shows itself comes first"


def test_what_was_held_back_is_measured(nginx: str, doctor: Doctor) -> None:
    told = doctor(f"{nginx}/buffered/pulse", seconds=1.3)
    assert told["lumps"]["sure"]
    assert told["lumps"]["held"] > 0.3
    assert 4000 < told["lumps"]["size"] < 4300, "nginx has buffers of 4096 bytes"
    assert not doctor(f"{nginx}/buffered/plain", seconds=1.3)["lumps"]["sure"]


# Through haproxy.

HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen right
    bind 127.0.0.1:{right}
    server app {address}
listen waits
    bind 127.0.0.1:{waits}
    http-response wait-for-body time 600ms at-least 1000000
    server app {address}
listen short
    bind 127.0.0.1:{short}
    timeout server 400ms
    server app {address}
listen gzip
    bind 127.0.0.1:{gzip}
    compression algo gzip
    compression type text/event-stream text/plain
    server app {address}
"""


@pytest.fixture(scope="module")
def haproxy(behind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    ports = {name: free_port() for name in ("right", "waits", "short", "gzip")}
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
        ("short", "/beats?every=0.1", []),
        ("gzip", "/pulse", []),
        ("gzip", "/file", ["unsized"]),
    ],
)
def test_what_haproxy_does_is_found(
    name: str, path: str, wrong: list[str], haproxy: dict[str, str], doctor: Doctor
) -> None:
    told = doctor(f"{haproxy[name]}{path}", seconds=1 if name in ("waits", "short") else 0.4)
    assert codes(told) == wrong, told
    for finding in told["findings"]:
        assert "haproxy" in finding["cures"], "it never shows itself"
    if (name, path) == ("gzip", "/pulse"):
        assert "it is compressed (gzip), and flushed item by item" in told["notes"]


# Through Apache.

APACHE = """\
Listen 127.0.0.1:{port}
ProxyPass /right/ {behind}/
ProxyPass /buffered/ {behind}/
ProxyPass /gzip/ {behind}/
ProxyPass /old/ {behind}/
ProxyPass /short/ {behind}/ timeout=1
ProxyVia On
<Location /buffered/>
    SetOutputFilter BUFFER
    BufferSize 4096
</Location>
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
    settings = APACHE.format(port=port, behind=behind)
    with proxy("apache", settings, tmp_path_factory.mktemp("apache"), port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/right/pulse", []),
        ("/right/plain", []),
        ("/right/file", []),
        ("/buffered/pulse", ["buffering"]),
        ("/gzip/pulse", []),
        ("/gzip/file", ["unsized"]),
        ("/old/pulse", ["downgrade"]),
        ("/short/beats", ["cut"]),
    ],
)
def test_what_apache_does_is_found(
    path: str, wrong: list[str], apache: str, doctor: Doctor
) -> None:
    told = doctor(f"{apache}{path}", seconds=1.3 if "short" in path or "buff" in path else 0.4)
    assert codes(told) == wrong, told
    for finding in told["findings"]:
        assert "Apache" in finding["cures"]
