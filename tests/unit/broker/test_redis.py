"""What holds for the log in Redis: its url, its failures, and what a Redis forgets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis as redis_client
from support.logs import LONG, SECONDS, Following, RedisServer, script
from support.servers import eventually, free_port

from vento_wsgi import Broker
from vento_wsgi.broker.backends.event_log import Topics
from vento_wsgi.broker.backends.redis import event_log as module
from vento_wsgi.broker.backends.redis.event_log import Redis
from vento_wsgi.exceptions import BrokerError

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A Redis that holds nothing."""
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def log(server: RedisServer) -> Iterator[Redis]:
    log = Redis(server.url, 10_000, LONG)
    yield log
    log.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)


# The url.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host/0", "redis://"),
        ("redis", "redis://"),
        ("redis://me:SECRET@host:port/0", "port is invalid"),
        ("redis://me:SEC/RET@host/0", "port is invalid"),
        ("redis://:SECRET@host/zero", "not the number of a database"),
        ("redis://:SECRET@host/0?name=a b", "letters, digits"),
        ("redis://:SECRET@host/0?name={a}", "letters, digits"),
        ("redis://:SECRET@host/0?name=a&surprise=1", "surprise"),
        ("redis://:SECRET@host/0?max_connections=x", "max_connections"),
    ],
)
def test_an_url_that_cannot_be_meant_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(BrokerError, match="is no URL of a Redis") as raised:
        Redis(url, 10, LONG)
    assert said in str(raised.value)
    assert "SEC" not in str(raised.value)


def test_an_url_says_where_and_under_which_name(server: RedisServer) -> None:
    urls = [server.url, f"{server.address}?name=other", f"{server.address}?name=vento&db=3"]
    for url in urls:
        with closing(Redis(f"{url}", 10, LONG)) as log:
            log.append("a", url.encode())
    for url in urls:
        with closing(Redis(url, 10, LONG)) as log:
            assert [e.block for e in log.read((0, 0), Topics("a"), 10)] == [url.encode()]
    with server.client() as client:
        assert {key for key in client.scan_iter() if b"{" not in key} == {b"vento", b"other"}


def test_what_the_url_says_of_answers_does_not_change_them(server: RedisServer) -> None:
    url = f"{server.address}?name=vento&decode_responses=true&socket_timeout=0.01&protocol=3"
    log = Redis(url, 10, LONG)
    with Following(log, log.last()) as following:
        time.sleep(0.1)
        following.reached(log.append("a", b"\xff"))
        assert following.blocks == [b"\xff"]


@pytest.mark.parametrize(
    "url", ["redis://host/0", "redis://me:SECRET@host?name=", "unix:///a?db=1"]
)
def test_a_url_without_a_name_is_refused_with_what_to_write(url: str) -> None:
    with (
        closing(Broker(url)) as broker,
        pytest.raises(BrokerError, match=r"redis://host/0\?name=shop") as raised,
    ):
        broker.publish("a", "x")
    assert "SECRET" not in str(raised.value)


PASSWORDS = [
    "redis://:{}@{}/0?name=a",
    "redis://me:{}@{}/0?name=a",
    "redis://{}/0?name=a&password={}",
    "redis://{}/0?password={}&name=a",
    "unix://me:{}@/{}?name=a",
    "unix:///{}?name=a&password={}",
    "rediss://me:{}@{}/0?name=a&ssl_password=SECRET%20KEY",
]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("password", ["SECRET", "SE%2FCRET", "%40SECRET%3F%23", "p%C3%A4SECRET"])
@pytest.mark.parametrize("url", PASSWORDS)
def test_a_password_is_in_no_message_traceback_or_repr(
    url: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields = url.count("{}") and url.index("{}") > url.index("//") + 2 and "@" in url
    where = f"127.0.0.1:{free_port()}" if not url.startswith("unix") else "no/such/socket"
    url = url.format(*((password, where) if fields or "@" in url else (where, password)))
    broker = Broker(url)
    log = Redis(url, 10, LONG)
    with Following(log, (0, 0)), closing(broker):
        with pytest.raises(BrokerError, match="did not answer") as raised:
            broker.publish("a", "x")
        eventually(lambda: "is tried again" in caplog.text)
    shown = [
        *traceback.format_exception(raised.value),
        *(broker.url, repr(broker), repr(log), repr(vars(log)), repr(log._client), caplog.text),
        *(repr(frame.f_locals) for frame, _ in traceback.walk_tb(raised.tb) if frame_of_log(frame)),
    ]
    for text in shown:
        for part in ("SECRET", "CRET", unquote(password)):
            assert part not in text


def frame_of_log(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename == module.__file__


@pytest.mark.parametrize(
    "url",
    [
        *("redis://:SE?CRET@host/0", "redis://:SE#CRET@host/0", "redis://:SE/CRET@host/0"),
        *(
            "redis://:SE@CRET@host/0",
            "redis://:SECRET",
            "redis://[SECRET@host",
            "redis://:SEC[RET@h",
        ),
        *(
            "redis://:SECRET\uff03@host/0",
            "redsi://:SECRET@host/0?password=SECRET",
            "redis://:SE CRET",
        ),
        "redis://host/0?password=SECRET@CRET#CRET",
    ],
)
def test_a_password_that_is_not_encoded_is_not_shown_either(url: str) -> None:
    with pytest.raises((BrokerError, ValueError)) as raised:  # noqa: PT012
        broker = Broker(url)
        assert "SE" not in broker.url
        assert "CRET" not in broker.url
        broker.publish("a", "x")
    text = "".join(traceback.format_exception(raised.value, chain=True))
    said = "".join(line for line in text.splitlines() if "Error" in line)
    assert "SEC" not in said
    assert "CRET" not in said


def test_what_a_proxy_repeats_of_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 10 * SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(
                    b"-ERR unknown command `AUTH`, with args beginning with: `me`, `SECRET`\r\n"
                )
                client.recv(1 << 16)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"redis://me:SECRET@127.0.0.1:{listening.getsockname()[1]}/0?name=a"
        with (
            closing(Broker(url)) as broker,
            pytest.raises(BrokerError, match=r"with args.*\*\*\*") as raised,
        ):
            broker.publish("a", "x")
        thread.join(SECONDS)
        assert "SECRET" not in "".join(traceback.format_exception(raised.value))


def test_nothing_is_connected_before_it_is_used() -> None:
    Redis("redis://192.0.2.1:1/0?name=a", 10, LONG).close()


# Failures.


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_not_there_is_said_in_bounded_time() -> None:
    with closing(Redis(f"redis://:SECRET@127.0.0.1:{free_port()}/0?name=a", 10, LONG)) as log:
        with pytest.raises(
            BrokerError, match=r"redis://127.0.0.1:\d+/0\?name=a did not answer"
        ) as raised:
            log.append("a", b"")
        assert "SECRET" not in str(raised.value)


@pytest.mark.usefixtures("hasty")
def test_a_server_that_does_not_answer_is_said_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        log = Redis(f"redis://127.0.0.1:{port}/0?name=a", 10, LONG)
        with closing(log), pytest.raises(BrokerError, match="did not answer"):
            log.last()


def test_a_wrong_password_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 10 * SECONDS)  # it is not asked again
    server = RedisServer()
    server.start("--requirepass", "right")
    try:
        for password in ("", ":WRONG@", "me:WRONG@"):
            url = server.url.replace("//", f"//{password}")
            with closing(Redis(url, 10, LONG)) as log:
                with pytest.raises(BrokerError, match="check user and password") as raised:
                    log.append("a", b"")
                assert "WRONG" not in str(raised.value).replace("WRONGPASS", "")
        with closing(Redis(server.url.replace("//", "//:right@"), 10, LONG)) as log:
            log.append("a", b"")
    finally:
        server.stop()


def test_a_key_of_another_program_is_left_alone(server: RedisServer, log: Redis) -> None:
    with server.client() as client:
        client.set("vento", "theirs")
        with pytest.raises(BrokerError, match=r"another program uses the key: write another"):
            log.append("a", b"")
        with pytest.raises(BrokerError):
            log.last()
        assert client.get("vento") == b"theirs"


class Faulty:
    """A proxy that breaks the connection off instead of giving the answers that it is told of."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.breaks = 0
        self.broken = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as redis, suppress(OSError):
            redis.connect(str(self.server.socket))
            while data := client.recv(1 << 16):
                redis.sendall(data)
                answer = redis.recv(1 << 16)
                if b"XADD" in data and self.breaks:
                    self.breaks -= 1
                    self.broken += 1
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()


def test_a_publication_whose_answer_is_lost_is_not_doubled(server: RedisServer) -> None:
    proxy = Faulty(server)
    log = Redis(f"redis://127.0.0.1:{proxy.port}?name=a", 10, LONG)
    try:
        given = []
        for i in range(5):
            proxy.breaks = i % 3
            given.append((log.append("a", b"%d" % i), b"%d" % i))
        assert proxy.broken == 4
        found = log.read((0, 0), Topics("a"), 10)
        assert [(entry.position, entry.block) for entry in found] == given
    finally:
        log.close()
        proxy.close()


PUBLISH = """
log = opened()
said("ready")
name = input()
for i in range(400):
    log.append(name, b"%d" % i)
    time.sleep(0.005)
    if i % 50 == 0:
        said(i)
said("done")
log.close()
"""


def test_a_redis_that_is_killed_and_comes_back_loses_and_doubles_nothing() -> None:
    server = RedisServer()
    server.start()
    log = Redis(server.url, 10_000, LONG)
    spec = f"Redis({server.url!r}, 10_000, 60)"
    try:
        with ExitStack() as stack:
            publishers = [stack.enter_context(script(spec, PUBLISH)) for _ in range(2)]
            for number, publisher in enumerate(publishers):
                assert publisher.said() == "ready"
                publisher.tell(str(number))
            following = stack.enter_context(Following(log, (0, 0)))
            for after in ("50", "200"):
                while publishers[0].said() != after:
                    pass
                server.kill()
                time.sleep(0.3)
                server.start()
            for publisher in publishers:
                while publisher.said() != "done":
                    pass
                publisher.ends()
            following.reached(log.last())
            for number in range(2):
                mine = [entry.block for entry in following.entries if entry.topic == str(number)]
                assert mine == [b"%d" % i for i in range(400)]
            assert following.entries == log.read((0, 0), Topics("01"), 1000)
    finally:
        log.close()
        server.stop()


def test_followers_that_cannot_reach_it_say_so_once_and_end_when_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Redis(f"redis://127.0.0.1:{free_port()}?name=a", 10, LONG)
    with Following(log, (0, 0)) as following:
        eventually(lambda: "is tried again" in caplog.text)
        time.sleep(0.3)
        log.close()
        following.thread.join(SECONDS)
        assert not following.thread.is_alive()
    assert caplog.text.count("is tried again") == 1


# What a Redis forgets.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 0.1)


def idle() -> None:
    """Let a follower look where it is, several times."""
    time.sleep(0.4)


Change = Callable[["redis_client.Redis"], object]


def flush(client: redis_client.Redis) -> None:
    client.flushall()


def delete_and_make_anew(client: redis_client.Redis) -> None:
    client.delete("vento")
    client.xadd("vento", {"a": "data: new\n\n"})


def restore(client: redis_client.Redis) -> None:
    client.restore("vento", 0, client.get("saved"), replace=True)  # type: ignore[arg-type]


def restore_and_go_on(client: redis_client.Redis) -> None:
    restore(client)
    client.xadd("vento", {"a": "data: new\n\n"})


def restore_with_a_clock_that_is_late(client: redis_client.Redis) -> None:
    restore(client)
    [(last, _)] = client.xrevrange("vento", count=1)  # type: ignore[misc]
    client.xadd("vento", {"a": "data: new\n\n"}, last[:-1] + b"1")  # type: ignore[index,operator]


SET_BACK = [
    flush,
    delete_and_make_anew,
    restore,
    restore_and_go_on,
    restore_with_a_clock_that_is_late,
]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("set_back", SET_BACK)
def test_a_client_that_had_what_a_redis_has_lost_is_told(
    server: RedisServer, set_back: Change
) -> None:
    with closing(Broker(server.url)) as broker, server.client() as client:
        kept = broker.publish("a", "kept")
        client.set("saved", client.dump("vento"))
        time.sleep(0.002)  # Redis counts in milliseconds
        events = broker.subscribe("a")
        lost = [broker.publish("a", f"lost {number}") for number in range(3)]
        assert [next(events).data for _ in lost] == ["lost 0", "lost 1", "lost 2"]
        set_back(client)
        broker.publish("a", "newer")
        given = []
        try:
            while "newer" not in given:
                given.append(next(events).data)
        except BrokerError:
            with closing(broker.subscribe("a", after=events.last_id)) as again:
                while not {"newer", "gap"} & {*given}:
                    event = next(again)
                    given.append(event.event or event.data)
        assert set_back in (flush, restore) or given[0] in ("gap", "new")
        for each in lost:
            with closing(broker.subscribe("a", after=each)) as again:
                assert next(again).event == "gap"
        if set_back not in (flush, delete_and_make_anew):
            with closing(broker.subscribe("a", after=kept)) as again:
                assert next(again).data in ("new", "newer")


def test_a_redis_that_comes_back_from_an_older_dump_is_found_out() -> None:
    server = RedisServer()
    dumps = ("--appendonly", "no", "--dbfilename", "dump.rdb")
    server.start(*dumps)
    try:
        with closing(Broker(server.url)) as broker:
            kept = broker.publish("a", "kept")
            with server.client() as client:
                client.save()
            events = broker.subscribe("a")
            lost = broker.publish("a", "lost")
            assert next(events).data == "lost"
            server.kill()
            server.start(*dumps)
            broker.publish("a", "new")
            with pytest.raises(BrokerError, match="subscribe again"):
                next(events)
            with closing(broker.subscribe("a", after=lost)) as again:
                assert next(again).event == "gap"
            with closing(broker.subscribe("a", after=kept)) as again:
                assert next(again).data == "new"
    finally:
        server.stop()


@pytest.mark.usefixtures("impatient")
def test_a_follower_whose_stream_is_trimmed_goes_on(server: RedisServer, log: Redis) -> None:
    with Following(log, log.last()) as following, server.client() as client:
        following.reached(log.append("a", b"1"))
        client.xtrim("vento", 0, approximate=False)
        idle()
        following.reached(log.append("a", b"2"))
        assert following.blocks == [b"1", b"2"]


@pytest.mark.usefixtures("impatient")
def test_a_follower_that_waits_for_the_first_entry_is_given_it_after_a_flush(
    server: RedisServer, log: Redis
) -> None:
    with Following(log, log.last()) as following, server.client() as client:
        client.flushall()
        idle()
        following.reached(log.append("a", b"1"))


def test_an_id_of_another_server_is_lost(log: Redis) -> None:
    first, second = log.append("a", b""), log.append("a", b"")
    assert not log.lost(first)
    assert not log.lost(second)
    assert log.lost((first[0], first[1] + 100))
    assert log.lost((first[0] - 1, 0))
    assert log.lost((second[0] + 10_000, 0))


def test_publications_are_remembered_for_a_time_only(server: RedisServer, log: Redis) -> None:
    log.append("a", b"")
    with server.client() as client:
        [nonce] = [key for key in client.scan_iter() if key != b"vento"]
        assert nonce.startswith(b"{vento}:")  # in the slot of "vento"
        assert 0 < client.ttl(nonce) <= module.NONCE
    assert module.NONCE > module.PATIENCE + 2 * module.ANSWER


def test_entries_of_another_hand_are_followed_as_far_as_they_make_sense(
    server: RedisServer, log: Redis
) -> None:
    with Following(log, log.last()) as following, server.client() as client:
        client.xadd("vento", {b"\xff": "1", "more": "2"})
        following.reached(log.append("a", b"2"))
        assert following.blocks == [b"1", b"2"]
        assert [entry.topic for entry in following.entries] == ["\ufffd", "a"]


# TLS.


def test_rediss_is_redis_over_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.fail("the tests need openssl: make packages")
    key, certificate, port = tmp_path / "key", tmp_path / "certificate", free_port()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key"),
            *("-out", "certificate", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    server = RedisServer()
    server.start(
        *("--tls-port", str(port), "--tls-cert-file", str(certificate)),
        *("--tls-key-file", str(key), "--tls-auth-clients", "no", "--requirepass", "right"),
    )
    try:
        url = f"rediss://:right@127.0.0.1:{port}/0?name=a&ssl_ca_certs={certificate}"
        log = Redis(url, 10, LONG)
        with Following(log, log.last()) as following:
            following.reached(log.append("a", b"1"))
    finally:
        server.stop()
