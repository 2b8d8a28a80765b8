"""Other systems than Linux, imitated here by removing the names that they lack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import ROOT, connect, eventually, serve

LACKS = """
import os, select, signal, socket, sys, termios

def lack(module, *names):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
        if name in getattr(module, "__all__", ()):
            module.__all__.remove(name)

def macos():
    lack(select, "EPOLLIN", "epoll", "POLLRDHUP")
    lack(
        socket,
        *("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "SO_PASSCRED"),
        *("SO_PEERCRED", "TCP_CORK", "TCP_DEFER_ACCEPT", "TCP_INFO", "TCP_QUICKACK"),
        *("TCP_USER_TIMEOUT", "MSG_NOSIGNAL", "MSG_ERRQUEUE", "MSG_MORE"),
    )
    lack(
        os,
        *("O_PATH", "O_TMPFILE", "copy_file_range", "eventfd", "memfd_create", "pidfd_open"),
        *("pipe2", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "splice", "accept4"),
    )
    lack(signal, "pidfd_send_signal", "SIGPOLL", "SIGPWR", "SIGSTKFLT")
    lack(termios, "TIOCOUTQ")
    fchmod = os.fchmod
    def of_files(fd, mode):
        import stat
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(22, "Invalid argument")
        fchmod(fd, mode)
    os.fchmod = of_files

def windows():
    for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "_posixsubprocess"):
        sys.modules[name] = None
    macos()
    lack(select, "poll", "POLLERR", "POLLHUP", "POLLIN", "POLLNVAL", "POLLOUT")
    lack(socket, "AF_UNIX", "sendmsg")
    lack(
        os,
        *("fchmod", "fork", "forkpty", "geteuid", "getuid", "getppid", "killpg", "pread"),
        *("preadv", "register_at_fork", "sendfile", "O_CLOEXEC", "O_DIRECTORY"),
        *("O_NOFOLLOW", "O_NONBLOCK"),
        *("umask", "chown", "uname", "wait", "setsid"),
    )
    lack(signal, "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGWINCH", "SIGTTIN", "SIGTTOU")
"""

SMALL = """
from vento_wsgi import Broker, create_app, create_router
from vento_wsgi.testing import Client

router = create_router()

@router.get("/events")
def events(ctx):
    return ctx.sse(range(3))

@router.get("/file")
def file(ctx):
    return ctx.file(__file__)

app = create_app()
app.use(router)
client = Client(app)
assert client.get("/events").text.count("data: ") == 3
assert client.get("/file").data.endswith(b'print("used")\\n')
broker = Broker("memory://")
subscription = broker.subscribe("news")
broker.publish("news", "one")
assert next(iter(subscription)).data == "one"
broker.close()
print("used")
"""


def run(folder: Path, *parts: str) -> str:
    """What a Python says that runs `parts` after one another."""
    (folder / "small.py").write_text("\n".join(parts))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "small.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    return done.stdout


@pytest.mark.parametrize("system", ["macos", "windows"])
def test_an_application_is_imported_and_used_without_what_linux_alone_has(
    tmp_path: Path, system: str
) -> None:
    # the standard library of this Python needs what it was built with
    before = "import logging, multiprocessing, sqlite3, subprocess, tempfile, threading"
    assert run(tmp_path, before, LACKS, f"{system}()", SMALL) == "used\n"


def test_every_module_is_imported_without_what_linux_alone_has(tmp_path: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "vento_wsgi").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    imports = "\n".join(f"import {module}" for module in modules)
    assert run(tmp_path, LACKS, "macos()", imports, "print('imported')") == "imported\n"


@pytest.mark.parametrize("module", ["vento_wsgi.server", "vento_wsgi.server.config"])
@pytest.mark.parametrize("played", ["windows()", "sys.platform = 'win32'"])
def test_the_server_says_on_windows_that_it_does_not_run_there(
    tmp_path: Path, module: str, played: str
) -> None:
    before = "import logging, subprocess, tempfile, threading"
    said = run(tmp_path, before, LACKS, played, f"import {module}")
    last = said.splitlines()[-1]
    assert last.startswith("ImportError: vento_wsgi.server runs on Linux and macOS")
    assert "Windows" in last


APP = """
import time
from vento_wsgi import Broker, create_app, create_router

router, broker, ended = create_router(), Broker("sqlite:///news.db"), []

def silent():
    try:
        yield b"first"
        time.sleep(600)
    finally:
        ended.append("interrupted")

@router.get("/silent")
def wait(ctx):
    return ctx.stream(silent(), on_end=lambda ending: ended.append(str(ending.reason)))

@router.get("/news")
def news(ctx):
    return ctx.sse(broker.subscribe("news"), on_end=lambda ending: ended.append(str(ending.reason)))

@router.get("/publish")
def publish(ctx):
    return ctx.text(broker.publish("news", "hello"))

@router.get("/file")
def file(ctx):
    return ctx.file(__file__)

@router.get("/ended")
def endings(ctx):
    return ctx.text(" ".join(ended))

app = create_app()
app.use(router)
"""


def test_a_worker_serves_and_notices_departures_without_what_linux_alone_has(
    tmp_path: Path,
) -> None:
    (tmp_path / "web.py").write_text(APP)
    (tmp_path / "conf.py").write_text(f"{LACKS}\nmacos()\n")
    options = ["-c", "conf.py"]
    server = "gunicorn-StreamWorker"
    with serve(server, "web:app", cwd=tmp_path, tmp=tmp_path, options=options) as running:

        def get(path: str) -> bytes:
            with connect(running) as raw:
                assert raw.request("GET", path).status == 200
                return raw.read_all().data

        with connect(running) as raw:
            raw.request("GET", "/silent")
            assert raw.read_piece() is not None
        eventually(lambda: get("/ended") == b"interrupted disconnected")
        with connect(running) as raw:
            raw.request("GET", "/news")
            assert raw.read_piece() is not None
            said = b""
            get("/publish")
            while b"data: hello" not in said:
                piece = raw.read_piece()
                assert piece is not None
                said += piece.data
        eventually(lambda: get("/ended") == b"interrupted disconnected disconnected")
        assert get("/file").decode() == APP
        assert "WARNING" not in running.log()
        os.kill(running.pid, signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert "Traceback" not in running.log()
