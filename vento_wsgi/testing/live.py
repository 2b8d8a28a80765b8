"""LiveServer: run the application on a real gunicorn, in processes of its own.

The listening socket is created here and inherited by gunicorn, so no other program can take the
port, and clients can connect at once. A worker writes to a pipe once it has loaded the application;
if the pipe is closed before, the server has ended. So nothing is polled, and the application gets
no requests except those of the test.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType

__all__ = ["LiveServer"]

START = 30.0
"""Seconds for the application to be imported, even on a busy machine."""

STOP = 10.0
"""Seconds from SIGTERM to SIGKILL: more than the graceful timeout below."""

SETTINGS = """\
import os
from vento_wsgi.server.config import *
from vento_wsgi.server.config import post_worker_init as prepare

worker_class = "vento_wsgi.server.StreamWorker"
graceful_timeout = 1

def post_worker_init(worker):
    prepare(worker)
    os.write({told}, b".")
"""


class LiveServer:
    """gunicorn with StreamWorker on a free port of 127.0.0.1. Use it in a ``with``, or close it.

    app: ``"module:app"``, or an application that is an attribute of an imported module.
    options: further arguments of gunicorn: ``["--workers=2", "--worker-class=gevent"]``.
    env: further environment variables.
    timeout: seconds in which a worker must have loaded the application.

    host, port, url: the address of the server. pid: gunicorn's.
    Raises LookupError if no module has the application, RuntimeError, with the log, if the server
    does not start.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        app: object,
        *,
        options: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = START,
    ) -> None:
        target = app if isinstance(app, str) else _name_of(app)
        self._folder = tempfile.TemporaryDirectory(prefix="vento-live-")
        self._log = Path(self._folder.name, "log")
        try:
            with socket.create_server((self.host, 0)) as listening:
                self.port: int = listening.getsockname()[1]
                self.url = f"http://{self.host}:{self.port}"
                self._start(target, listening.fileno(), list(options), env or {}, timeout)
        except BaseException:
            self._folder.cleanup()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """The output of the server so far, stdout and stderr; after close() all of it."""
        if self._log.exists():
            self._said = self._log.read_text("utf-8", "replace")
        return self._said

    def close(self) -> None:
        """Stop the server and wait for its end. Further calls do nothing."""
        if self._process.returncode is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP)
            with suppress(ProcessLookupError):  # kill the workers that are left in its session
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.log()
        self._folder.cleanup()

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(
        self,
        target: str,
        listening: int,
        options: list[str],
        env: Mapping[str, str],
        timeout: float,
    ) -> None:
        ready, told = os.pipe()
        settings = Path(self._folder.name, "settings.py")
        settings.write_text(SETTINGS.format(told=told))
        command = [sys.executable, "-m", "gunicorn", "-c", str(settings), "-b", f"fd://{listening}"]
        path = os.pathsep.join(dict.fromkeys([os.getcwd(), *(name for name in sys.path if name)]))
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, *options, target],
                    env={
                        "VENTO_DRAIN_WINDOW": "0",
                        **os.environ,
                        "PYTHONPATH": path,
                        "PYTHONUNBUFFERED": "1",
                        **env,
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(listening, told),
                    start_new_session=True,
                )
            os.close(told)
            told = -1
            why = self._wait(ready, timeout)
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        if why:
            self.close()
            raise RuntimeError(f"gunicorn {why} with {target}; its output:\n{self.log()}")

    def _wait(self, ready: int, timeout: float) -> str:
        """Why the server did not start; "" if it did."""
        if not select.select([ready], [], [], timeout)[0]:
            return f"did not start within {timeout:g} s"
        if not os.read(ready, 1):
            return f"ended with exit status {self._process.wait(STOP)}"
        return ""


def _name_of(app: object) -> str:
    if not callable(app):
        raise LookupError(f'give "module:app" or a WSGI application, not {app!r}')
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name != "__main__":
            for attribute, value in list(vars(module).items()):
                if value is app:
                    return f"{name}:{attribute}"
    raise LookupError(
        f"{app!r} is not an attribute of an imported module, so a server cannot import it: "
        'define it in a module, or give "module:app"'
    )
