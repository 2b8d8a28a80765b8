"""``vento-wsgi top`` and the sockets that it reads, of real servers."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from support.servers import APPS, ROOT, Raw, Running, connect, eventually, serve

from vento_wsgi.cli import main
from vento_wsgi.cli.top import command as top_module
from vento_wsgi.server.status import folder, is_private

Top = Callable[..., Any]


@pytest.fixture
def home(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Where sockets go; pytest's own folders have names that are too long for them."""
    tmp_path_factory.getbasetemp()  # it asks tempfile once
    path = Path(tempfile.mkdtemp(prefix="vento-top-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))  # root looks at those of all users
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def server(home: Path, tmp_path: Path) -> Iterator[Running]:
    with started(tmp_path) as running:
        eventually(lambda: len(sockets(home)) == 2, explain=running.log)
        yield running


def started(tmp: Path, *options: str) -> Any:
    workers = options or ("--workers=2",)
    return serve("gunicorn-StreamWorker", "apps.top_app:app", tmp=tmp, options=workers)


def sockets(home: Path) -> list[Path]:
    return sorted(home.glob("vento-wsgi/*.sock"))


@pytest.fixture
def top(capsys: pytest.CaptureFixture[str], home: Path) -> Top:
    """What the command says of a server, as JSON has it."""
    assert folder() == home / "vento-wsgi"

    def run(*arguments: str) -> Any:
        assert main(["top", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def rows(told: Any) -> dict[str, Any]:
    """The streams by the last part of their route."""
    found = [row for worker in told["workers"] for row in worker["rows"]]
    return {row["route"].rpartition("/")[2] or "/": row for row in found}


def endings(told: Any) -> list[Any]:
    return [end for worker in told["workers"] for end in worker["ended"]]


def opened(stack: ExitStack, running: Running, path: str, *fields: str) -> Raw:
    raw = stack.enter_context(connect(running))
    raw.ask("GET", path, *fields)
    return raw


def test_streams_of_every_kind_are_shown(server: Running, top: Top) -> None:
    with ExitStack() as stack:
        waits = opened(stack, server, "/waits/a", "X-Forwarded-For: 203.0.113.9, 10.0.0.1")
        opened(stack, server, "/starts")
        opened(stack, server, "/flood")
        opened(stack, server, "/news")
        wanted = {"<name>": "waiting", "starts": "starting", "flood": "sending", "news": "parked"}
        found: dict[str, Any] = {}

        def shown() -> bool:
            found.clear()
            found.update(rows(top()))
            states = {name: row["state"] for name, row in found.items()}
            return states == wanted and found["flood"]["backlog"] > 0

        eventually(shown, explain=lambda: str(found))
        waiting = found["<name>"]
        host, port = waits.sock.getsockname()
        assert waiting["client"] == f"{host}:{port}"
        assert waiting["forwarded"] == "203.0.113.9, 10.0.0.1"
        assert waiting["route"] == "GET /waits/<name>"
        assert (waiting["bytes"], waiting["chunks"], waiting["backlog"]) == (6, 1, 0)
        assert 0 <= waiting["still"] <= waiting["age"] < 60
        assert found["flood"]["bytes"] > found["flood"]["backlog"] > 0
        assert found["news"]["forwarded"] == ""
        assert found["news"]["client"].startswith("127.0.0.1:")
        told = top()
        assert sum(worker["streams"] for worker in told["workers"]) == 4
        assert told["master"] == server.pid
        assert told["name"] == "apps.top_app:app"
        assert told["listening"] == [f"127.0.0.1:{server.port}"]
        assert {worker["draining"] for worker in told["workers"]} == {False}


def test_endings_are_shown_with_their_reasons_and_the_last_first(server: Running, top: Top) -> None:
    with connect(server) as raw:
        assert raw.request("GET", "/ends").status == 200
        assert raw.read_all().complete
    with connect(server) as raw:
        raw.request("GET", "/fails")
        assert not raw.read_all().complete
    for path in ("/waits/a", "/news"):
        with connect(server) as raw:
            raw.request("GET", path)
            assert raw.read_piece()
    found: dict[str, str] = {}

    def shown() -> bool:
        told = top()
        found.update({end["route"]: end["reason"] for end in endings(told)})
        return len(found) == 4

    eventually(shown, explain=lambda: str(found))
    assert found == {
        "GET /ends": "exhausted",
        "GET /fails": "failed",
        "GET /waits/<name>": "disconnected",
        "GET /news": "disconnected",
    }
    told = top()
    assert rows(told) == {}
    for worker in told["workers"]:
        assert worker["ended"] == sorted(worker["ended"], key=lambda end: float(end["ago"]))
    assert {end["bytes"] for end in endings(told) if end["route"] == "GET /ends"} == {3}


def test_only_their_user_may_reach_the_sockets(server: Running, home: Path) -> None:
    place = home / "vento-wsgi"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in sockets(home)] == [0o600] * 2
    assert [path.name.partition("-")[0] for path in sockets(home)] == [str(server.pid)] * 2


ASK = """
import socket, sys
asking = socket.socket(socket.AF_UNIX)
try:
    asking.connect(sys.argv[1])
    print(len(asking.recv(10)))
except (PermissionError, ConnectionError) as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.usefixtures("server")
def test_another_user_is_refused_also_where_the_folder_was_opened(home: Path) -> None:
    (path, _) = sockets(home)

    def asked() -> str:
        command = ["/usr/bin/python3", "-c", ASK, str(path)]
        done = subprocess.run(
            command,
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    home.chmod(0o711)
    assert asked() == "PermissionError"
    path.parent.chmod(0o711)
    assert asked() == "PermissionError"
    path.chmod(0o666)
    assert asked() in ("0", "ConnectionResetError")


@pytest.fixture
def hostile(home: Path, server: Running) -> Iterator[Path]:
    """The folder of another user, full of sockets and of what is none."""
    if os.geteuid() != 0:
        pytest.skip("only root looks at the sockets of other users")
    home.chmod(0o711)
    folder = home / "vento-wsgi-65534"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    source = (APPS / "hostile_workers.py").read_text()
    arguments = [str(folder), str(server.pid), str(home / "vento-wsgi")]
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", source, *arguments],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield folder
        finally:
            process.stdin.close()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process, which ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "vento_wsgi", "top", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.usefixtures("hostile")
def test_no_other_user_keeps_root_from_its_own_servers(server: Running) -> None:
    with ExitStack() as stack:
        opened(stack, server, "/waits/a").read_head()
        for arguments in ([], [f":{server.port}"]):
            done = command("--json", *arguments)
            assert (done.returncode, done.stderr) == (0, "")
            told = json.loads(done.stdout)
            assert (told["master"], told["name"]) == (server.pid, "apps.top_app:app")
            assert len(told["workers"]) == 2, "no other user's among them"
            assert [worker.get("blocked") for worker in told["workers"]] == [None] * 2
            assert list(rows(told)) == ["<name>"]
        done = command("--once")
        assert (done.returncode, done.stderr) == (0, "")
        assert "GET /waits/<name>" in done.stdout


def test_what_other_users_say_is_shown_to_root_escaped_and_bounded(hostile: Path) -> None:
    names = [path.stem.partition("-") for path in hostile.glob("*-*.sock") if path.is_socket()]
    master = max({name[0] for name in names}, key=[name[0] for name in names].count)
    done = command("--json", master)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    workers = told["workers"]
    assert {worker["master"] for worker in workers if "master" in worker} == {int(master)}
    silent = [worker for worker in workers if "blocked" in worker]
    assert len(silent) == 3, "it takes no connection, says nothing, or trickles"
    assert len([worker for worker in workers if "unclear" in worker]) == 20
    (good,) = [worker for worker in workers if "rows" in worker]
    assert len(good["rows"]) == 500
    done = command("--once", master)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isprintable() or all(map(str.isprintable, done.stdout.split("\n")))
    assert "evil\\x1b[31m" in done.stdout


@pytest.mark.usefixtures("hostile", "server")
def test_a_user_who_is_not_root_is_shown_no_other_users_streams(home: Path) -> None:
    # argparse imports locale late, where the other user may not read the standard library
    code = "import locale, os, sys; from pathlib import Path; from vento_wsgi.cli import main; "
    code += "from vento_wsgi.cli.top import command; os.setgroups([]); os.setgid(65533); "
    code += "os.setuid(65533); sys.exit(main(['top', '--json', *sys.argv[1:]]))"
    for more in ({}, {"XDG_RUNTIME_DIR": str(home)}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(home), **more},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        assert "no server with StreamWorkers runs" in done.stderr
        assert done.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("name", ["vento-wsgi-0", "vento-wsgi-65533"])
def test_a_folder_that_is_not_of_the_user_in_its_name_is_not_looked_at(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    place = home / name
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / f"{os.getppid()}-{os.getpid()}.sock"))
        listening.listen()
        os.chown(place, 65534, 65534)
        assert main(["top", "--json"]) == 2
        assert "no server with StreamWorkers runs" in capsys.readouterr().err
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_worker_that_answers_nothing_does_not_hide_the_others(
    server: Running,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(top_module, "PATIENCE", 1.0)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(home / "vento-wsgi" / f"{server.pid}-1.sock"))
        mute.listen()
        for name in ([], [str(server.pid)], [f":{server.port}"]):
            assert main(["top", "--json", *name]) == 0
            workers = json.loads(capsys.readouterr().out)["workers"]
            assert [worker["worker"] for worker in workers if "blocked" in worker] == [1]
            assert len([worker for worker in workers if "rows" in worker]) == 2
        (home / "vento-wsgi" / f"{server.pid}-1.sock").unlink()


def test_folders_and_sockets_are_private_under_any_umask(home: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--workers=1", "--umask=0") as running:
        eventually(lambda: len(sockets(home)) == 1, explain=running.log)
        assert stat.S_IMODE((home / "vento-wsgi").stat().st_mode) == 0o700
        assert [stat.S_IMODE(path.stat().st_mode) for path in sockets(home)] == [0o600]


def test_nothing_is_left_behind(home: Path, tmp_path: Path) -> None:
    with started(tmp_path):
        eventually(lambda: len(sockets(home)) == 2)
    assert list(home.iterdir()) == []


def test_what_killed_workers_left_is_swept(home: Path, tmp_path: Path, top: Top) -> None:
    place = home / "vento-wsgi"
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place / "1-2.sock"))
    (place / "other.txt").touch()
    with started(tmp_path, "--workers=1") as running:
        eventually(lambda: len(sockets(home)) == 1 and not (place / "1-2.sock").exists())
        (path,) = sockets(home)
        os.kill(int(path.stem.partition("-")[2]), signal.SIGKILL)
        eventually(lambda: sockets(home) not in ([], [path]), explain=running.log)
        eventually(lambda: path not in sockets(home))
        assert len(top()["workers"]) == 1
    assert [path.name for path in place.iterdir()] == ["other.txt"]


def test_top_itself_sweeps(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = home / "vento-wsgi"
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place / "1-2.sock"))
    assert main(["top", "--once"]) == 2
    assert sockets(home) == []
    assert "no server with StreamWorkers runs" in capsys.readouterr().err


def test_a_server_is_named_by_pid_or_address(
    server: Running, tmp_path: Path, top: Top, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(tmp_path, "--workers=1") as other:
        eventually(lambda: len(sockets(folder().parent)) == 3)
        assert main(["top", "--once"]) == 2
        said = capsys.readouterr().err
        assert "several servers run: choose one" in said
        assert str(server.pid) in said
        assert f"127.0.0.1:{other.port}" in said
        for name in (
            str(other.pid),
            f"127.0.0.1:{other.port}",
            f"localhost:{other.port}",
            f":{other.port}",
            f"http://127.0.0.1:{other.port}/",
        ):
            assert top(name)["master"] == other.pid
        assert main(["top", "--once", "1"]) == 2
        assert "no server with StreamWorkers is '1'" in capsys.readouterr().err


def test_a_worker_that_is_kept_from_its_loop_is_said(
    home: Path, tmp_path: Path, top: Top, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_module, "PATIENCE", 0.2)
    with started(tmp_path, "--workers=1") as running, connect(running) as raw:
        eventually(lambda: len(sockets(home)) == 1)
        raw.ask("GET", "/blocks?seconds=3")
        eventually(lambda: "blocked" in top()["workers"][0])
        assert raw.read_head().status == 200
        assert raw.read_all().complete
        eventually(lambda: "blocked" not in top()["workers"][0])


def test_a_folder_that_others_may_enter_is_not_used(home: Path, tmp_path: Path) -> None:
    place = home / "vento-wsgi"
    place.mkdir(mode=0o755)
    with started(tmp_path, "--workers=1") as running:
        said = "vento-wsgi top will not see this worker: "
        eventually(lambda: said in running.log(), explain=running.log)
        with connect(running) as raw:
            assert raw.request("GET", "/ends").status == 200
        assert sockets(home) == []
    assert place.exists()


def test_a_link_is_no_folder(home: Path) -> None:
    (home / "real").mkdir(mode=0o700)
    (home / "link").symlink_to(home / "real")
    assert is_private(home / "real")
    assert not is_private(home / "link")
    assert not is_private(home / "nowhere")


def test_where_the_runtime_folder_cannot_be_used_there_is_one_for_the_user(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for useless in ("", "relative", str(home / "gone"), f"/{'long' * 30}"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", useless)
        assert folder() == home / f"vento-wsgi-{os.geteuid()}"


def test_it_is_shown_once_for_scripts(
    server: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_module, "REFRESH", 0.3)
    with ExitStack() as stack:
        assert opened(stack, server, "/ticks").read_head().status == 200
        assert main(["top", "--once", str(server.pid)]) == 0
    title, _, head, row = capsys.readouterr().out.splitlines()
    assert title.startswith(
        f"apps.top_app:app ({server.pid}), 127.0.0.1:{server.port}, 2 workers, 1 stream"
    )
    columns = ["WORKER", "AGE", "STATE", "STILL", "BYTES", "RATE", "BACKLOG", "CLIENT", "ROUTE"]
    assert head.split() == columns
    assert row.endswith("GET /ticks")
    assert re.search(r" \d+(\.\d)? K?B/s ", row), "some 10 KB a second"


def test_it_is_shown_in_a_terminal_until_q(server: Running) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    said = b""

    def read_until(wanted: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + 60
        while wanted not in said:
            assert time.monotonic() < deadline, said
            with suppress(OSError):  # Linux's EIO: nobody has the terminal open
                said += os.read(ours, 1 << 16)

    with ExitStack() as stack:
        opened(stack, server, "/news")
        command = [sys.executable, "-m", "vento_wsgi", "top", str(server.pid)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "", "LINES": "", "TERM": "xterm"}
        process = stack.enter_context(
            subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        )
        try:
            read_until(b"GET /news")
            assert said.startswith(b"\x1b[?1049h\x1b[?25l\x1b[H")
            assert not termios.tcgetattr(theirs)[3] & termios.ICANON
            os.write(ours, b"q")
            read_until(b"\x1b[?25h\x1b[?1049l")
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
