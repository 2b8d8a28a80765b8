"""Peers: installs the programs and packages of the contenders, and knows their versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

__all__ = ["FAST", "Peers"]

SHARED = ("gunicorn", "gevent", "greenlet", "werkzeug")
"""One interpreter runs all Python applications, with the project's versions of these packages."""

FAST = "gunicorn_h1c"
"""gunicorn's C parser. It is shared too if the project has it: `http_parser = auto` takes it, in
stock gunicorn as in StreamWorker, so that the comparison is fair."""

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

    home: the folder to install into. versions: the version of each, by name.
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
        """Install `packages` and the shared ones. Raises RuntimeError if that fails."""
        if not self.python.exists():
            _run(sys.executable, "-m", "venv", str(self.python.parent.parent))
        pins = _pins()
        there = self._packages()
        missing = [name for name in packages if name not in there]
        if missing or any(there.get(name) != pin for name, pin in pins.items()):
            held = [f"{name}=={pin}" for name, pin in pins.items()]
            held.append(f"gunicorn[gevent]=={pins['gunicorn']}")  # other imports of its worker
            options = ("--quiet", "--disable-pip-version-check")
            _run(str(self.python), "-m", "pip", "install", *options, *held, *missing)
            there = self._packages()
        self.versions |= {name: there[name] for name in (*pins, *packages)}

    def _packages(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(_run(str(self.python), "-c", VERSIONS))
        return found

    def need_node(self) -> None:
        """Find Node on the PATH. Raises RuntimeError if it is missing."""
        if shutil.which("node") is None:
            raise RuntimeError("node is not on the PATH")
        self.versions["node"] = _run("node", "--version").removeprefix("v")

    def need_bun(self) -> None:
        """Install Bun from npm. Raises RuntimeError if that fails."""
        if not self.bun.exists():
            folder = self._home / "node"
            folder.mkdir(parents=True, exist_ok=True)
            options = ("--no-audit", "--no-fund", "--loglevel=error")
            _run("npm", "install", *options, "--prefix", str(folder), "bun")
        self.versions["bun"] = _run(str(self.bun), "--version")

    def need_nginx(self) -> None:
        """Find nginx, or unpack Debian's package. Raises RuntimeError if that fails."""
        if not self.nginx.exists():
            _unpack(self._home / "nginx", *NGINX_PACKAGES)
        # the version goes to stderr
        self.versions["nginx"] = _run(str(self.nginx), "-v", both=True).rpartition("/")[2]

    def need_nchan(self) -> None:
        """Find nginx and unpack Debian's nchan, which only Debian's nginx can load."""
        self.need_nginx()
        folder = self._home / "nchan"
        if not self.nchan.exists():
            _unpack(folder, "libnginx-mod-nchan")
        for package in folder.glob("*.deb"):
            version = _run("dpkg-deb", "--field", str(package), "Version")
            self.versions["nchan"] = version.rpartition(":")[2]

    def need_redis(self) -> None:
        """Find redis-server, or unpack Debian's packages. Raises RuntimeError if that fails."""
        if not self.redis.exists():
            _unpack(self._home / "redis", *REDIS_PACKAGES)
        said = _run(str(self.redis), "--version", environ=self.redis_environ)
        self.versions["redis-server"] = said.partition("v=")[2].partition(" ")[0]

    @property
    def redis_environ(self) -> dict[str, str]:
        """The environment with the unpacked libraries of Redis."""
        libraries = (self._home / "redis" / "usr" / "lib").glob("*-linux-gnu*")
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}

    def need_compiler(self) -> None:
        """Find cc on the PATH. Raises RuntimeError if it is missing."""
        if shutil.which("cc") is None:
            raise RuntimeError("cc, the C compiler, is not on the PATH: apt-get install gcc")
        self.versions["cc"] = _run("cc", "-dumpfullversion")

    def compiled(self, source: Path, folder: Path) -> Path:
        """Compile a C file into `folder`; the program. Raises RuntimeError if that fails."""
        program = folder / source.stem
        _run("cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(source))
        return program


def _pins() -> dict[str, str]:
    pins = {name: metadata.version(name) for name in SHARED}
    with suppress(metadata.PackageNotFoundError):
        pins[FAST] = metadata.version(FAST)
    return pins


def _found(name: str, otherwise: Path) -> Path:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(name, path=path)
    return Path(found) if found else otherwise


def _unpack(folder: Path, *packages: str) -> None:
    """Unpack Debian packages into `folder`. Raises RuntimeError if that fails."""
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
    """Run a command; its output. Raises RuntimeError with its last line if it fails.

    both: stderr is part of the output.
    """
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
