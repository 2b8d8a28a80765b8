"""A certificate for servers at 127.0.0.1."""

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """The files of a self-signed certificate."""

    key: Path
    issued: Path

    @property
    def options(self) -> tuple[str, str]:
        """gunicorn's command line."""
        return f"--keyfile={self.key}", f"--certfile={self.issued}"

    def context(self) -> ssl.SSLContext:
        """For clients that trust this certificate alone."""
        return ssl.create_default_context(cafile=str(self.issued))


def make_certificate(folder: Path) -> Certificate:
    key, issued = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-keyout", str(key), "-out", str(issued)),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return Certificate(key, issued)
