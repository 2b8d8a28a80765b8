"""Peers: who is compared, installed where it is missing, and in which version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["Peers"]

SHARED = ("gunicorn", "gevent", "greenlet", "werkzeug")
"""One interpreter serves every application in Python, with the versions that the project has."""

NGINX_PACKAGES = ("nginx-light", "nginx")

VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"].lower(): d.version for d in distributions()}))
"""


class Peers:
    """The programs and the Python packages of the contenders.

    home: the folder that what is installed goes to. versions: of all that is there.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.python = home / "bench" / "bin" / "python"
        self.bun = home / "node" / "node_modules" / "bun" / "bin" / "bun.exe"
        self.versions: dict[str, str] = {}
        path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
        found = shutil.which("nginx", path=path)
        self.nginx = Path(found) if found else home / "nginx" / "usr" / "sbin" / "nginx"

    def need_python(self, packages: tuple[str, ...]) -> None:
        """Have `packages` beside what all share. Raises RuntimeError if they cannot be had."""
        if not self.python.exists():
            _run(sys.executable, "-m", "venv", str(self.python.parent.parent))
        pins = {name: metadata.version(name) for name in SHARED}
        there = self._packages()
        missing = [name for name in packages if name not in there]
        if missing or any(there.get(name) != pin for name, pin in pins.items()):
            held = [f"{name}=={pin}" for name, pin in pins.items()]
            held.append(f"gunicorn[gevent]=={pins['gunicorn']}")  # for what else its worker imports
            options = ("--quiet", "--disable-pip-version-check")
            _run(str(self.python), "-m", "pip", "install", *options, *held, *missing)
            there = self._packages()
        self.versions |= {name: there[name] for name in (*SHARED, *packages)}

    def _packages(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(_run(str(self.python), "-c", VERSIONS))
        return found

    def need_node(self) -> None:
        """Find the system's Node. Raises RuntimeError if there is none."""
        if shutil.which("node") is None:
            raise RuntimeError("there is no node on the PATH")
        self.versions["node"] = _run("node", "--version").removeprefix("v")

    def need_bun(self) -> None:
        """Have Bun, from npm. Raises RuntimeError if it cannot be had."""
        if not self.bun.exists():
            folder = self._home / "node"
            folder.mkdir(parents=True, exist_ok=True)
            options = ("--no-audit", "--no-fund", "--loglevel=error")
            _run("npm", "install", *options, "--prefix", str(folder), "bun")
        self.versions["bun"] = _run(str(self.bun), "--version")

    def need_nginx(self) -> None:
        """Have nginx: the system's, else Debian's, unpacked. Raises RuntimeError."""
        if not self.nginx.exists():
            folder = self._home / "nginx"
            folder.mkdir(parents=True, exist_ok=True)
            _run("apt-get", "-qq", "download", *NGINX_PACKAGES, folder=folder)
            for package in folder.glob("*.deb"):
                _run("dpkg-deb", "--extract", str(package), str(folder))
        # it says its version on stderr
        self.versions["nginx"] = _run(str(self.nginx), "-v", both=True).rpartition("/")[2]


def _run(*command: str, folder: Path | None = None, both: bool = False) -> str:
    """What the command writes. Raises RuntimeError with its last words if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise RuntimeError(f"{Path(command[0]).name}: {said[-1]}")
    return (done.stdout + done.stderr if both else done.stdout).strip()
