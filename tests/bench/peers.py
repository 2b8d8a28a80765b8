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
NCHAN_MODULE = "usr/lib/nginx/modules/ngx_nchan_module.so"
REDIS_PACKAGES = ("redis-server", "redis-tools", "liblzf1", "libjemalloc2", "libatomic1")

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
        self.nginx = _found("nginx", home / "nginx" / "usr" / "sbin" / "nginx")
        self.nchan = home / "nchan" / NCHAN_MODULE
        self.redis = _found("redis-server", home / "redis" / "usr" / "bin" / "redis-server")

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
            _unpack(self._home / "nginx", *NGINX_PACKAGES)
        # it says its version on stderr
        self.versions["nginx"] = _run(str(self.nginx), "-v", both=True).rpartition("/")[2]

    def need_nchan(self) -> None:
        """Have nginx and Debian's nchan, unpacked; only Debian's nginx can load it."""
        self.need_nginx()
        folder = self._home / "nchan"
        if not self.nchan.exists():
            _unpack(folder, "libnginx-mod-nchan")
        for package in folder.glob("*.deb"):
            version = _run("dpkg-deb", "--field", str(package), "Version")
            self.versions["nchan"] = version.rpartition(":")[2]

    def need_redis(self) -> None:
        """Have redis-server: the system's, else Debian's, unpacked. Raises RuntimeError."""
        if not self.redis.exists():
            _unpack(self._home / "redis", *REDIS_PACKAGES)
        said = _run(str(self.redis), "--version", environ=self.redis_environ)
        self.versions["redis-server"] = said.partition("v=")[2].partition(" ")[0]

    @property
    def redis_environ(self) -> dict[str, str]:
        """Its libraries, where it is unpacked."""
        libraries = (self._home / "redis" / "usr" / "lib").glob("*-linux-gnu*")
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}

    def need_compiler(self) -> None:
        """Find the system's C compiler. Raises RuntimeError if there is none."""
        if shutil.which("cc") is None:
            raise RuntimeError("there is no C compiler, cc, on the PATH: apt-get install gcc")
        self.versions["cc"] = _run("cc", "-dumpfullversion")

    def compiled(self, source: Path, folder: Path) -> Path:
        """The program of a file of C, in `folder`. Raises RuntimeError."""
        program = folder / source.stem
        _run("cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(source))
        return program


def _found(name: str, otherwise: Path) -> Path:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(name, path=path)
    return Path(found) if found else otherwise


def _unpack(folder: Path, *packages: str) -> None:
    """Unpack what Debian has into `folder`. Raises RuntimeError."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("apt-get", "-qq", "download", *packages, folder=folder)
    for package in folder.glob("*.deb"):
        _run("dpkg-deb", "--extract", str(package), str(folder))


def _run(
    *command: str,
    folder: Path | None = None,
    both: bool = False,
    environ: dict[str, str] | None = None,
) -> str:
    """What the command writes. Raises RuntimeError with its last words if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=900
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise RuntimeError(f"{Path(command[0]).name}: {said[-1]}")
    return (done.stdout + done.stderr if both else done.stdout).strip()
