"""nginx, haproxy and Apache as processes in front of a server, with settings of the test."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.missing import missing
from support.servers import APACHE, APACHE_MODULES, eventually

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin"

NGINX = """\
daemon off;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {settings}
}}
"""

APACHE_CONFIG = """\
ServerName localhost
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
{load}
{settings}
"""

MODULES = (
    *("mpm_event", "authz_core", "env", "filter", "deflate"),
    *("proxy", "proxy_http", "ext_filter"),
)


@contextmanager
def proxy(name: str, settings: str, folder: Path, port: int) -> Iterator[None]:
    """Run the proxy `name` with `settings`, listening on `port`, while the block runs."""
    folder.chmod(0o755)
    config = folder / f"{name}.conf"
    command: Sequence[str]
    if name == "nginx":
        config.write_text(NGINX.format(folder=folder, settings=settings))
        error_log = f"{folder}/error.log"
        command = [found("nginx"), "-c", str(config), "-p", str(folder), "-e", error_log]
    elif name == "haproxy":
        config.write_text(settings)
        command = [found("haproxy"), "-db", "-f", str(config)]
    else:
        if not APACHE.exists():
            missing("apache2 is not installed")
        load = "\n".join(f"LoadModule {m}_module {APACHE_MODULES}/mod_{m}.so" for m in MODULES)
        config.write_text(APACHE_CONFIG.format(folder=folder, load=load, settings=settings))
        command = [str(APACHE), "-DFOREGROUND", "-f", str(config)]
    log = folder / "output.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as run:
        try:
            eventually(lambda: accepts(port), 30, log.read_text)
            yield
        finally:
            run.terminate()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def found(name: str) -> str:
    return shutil.which(name, path=PLACES) or missing(f"{name} is not installed")
