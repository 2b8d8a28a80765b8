"""Commands that serve, as real processes, and what they write."""

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from support.servers import eventually

CONSOLE_SCRIPT = [str(Path(sys.executable).with_name("vento-wsgi"))]
MODULE = [sys.executable, "-m", "vento_wsgi"]
START_SECONDS = 30.0
END_SECONDS = 30.0


class Process:
    """A started command: its process, and all that it has written."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def port(self) -> int:
        """Where it listens, once it does."""
        found: list[str] = []

        def listens() -> bool:
            assert self.process.poll() is None, f"it ended:\n{self.log()}"
            found[:] = re.findall(r"Listening at: http://\S+:(\d+) ", self.log())
            return bool(found)

        eventually(listens, START_SECONDS, self.log)
        return int(found[0])

    def request(self, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
        """The status and text of an answer; waits until there is one."""
        connection = http.client.HTTPConnection(host, self.port(), timeout=START_SECONDS)
        with closing(connection):
            connection.request(method, path)
            with connection.getresponse() as response:
                return response.status, response.read().decode()

    def get(self, path: str = "/") -> str:
        status, text = self.request(path)
        assert status == 200, f"{path}: {status} {text}\n{self.log()}"
        return text

    def workers(self) -> int:
        """How many workers have been started."""
        return self.log().count("Booting worker with pid:")

    def serves_on(self, workers: int) -> None:
        """Wait until so many workers, and no more, have imported COUNTED.

        A worker that is told to end before that has not yet learnt to listen.
        """
        eventually(lambda: self.log().count("imported\n") == workers, START_SECONDS, self.log)
        assert self.workers() == workers

    def ends(self) -> int:
        """The exit status, once it has ended by itself."""
        try:
            return self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it goes on:\n{self.log()}")


def environment(cwd: Path, more: dict[str, str]) -> dict[str, str]:
    others = ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "PYTHONSAFEPATH")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    # gunicorn puts its control socket into XDG_RUNTIME_DIR, or else into the home directory
    ours = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "XDG_RUNTIME_DIR": str(cwd)}
    return kept | ours | more


@contextmanager
def started(command: Sequence[object], cwd: Path, **env: str) -> Iterator[Process]:
    """`command` as a process in `cwd`, stopped at the end of the block."""
    log = cwd / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=environment(cwd, env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Process(process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it was given a session of its own
        process.wait()


def done(command: Sequence[object], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`command` as a process in `cwd`, when it has ended by itself."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(cwd, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
    )
