"""Gates: a test decides when a generator of an application in another process goes on."""

import select
import socket

from support.closing import Closing


class Gate(Closing):
    """What a generator waits at; see apps/matrix.py."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30)
        self._generator: socket.socket | None = None
        self.port: int = self._listener.getsockname()[1]

    def wanted(self) -> bool:
        """Wait until the generator wants to go on; False if it has ended instead."""
        if self._generator is None:
            self._generator, _ = self._listener.accept()
            self._generator.settimeout(30)
        sign = self._generator.recv(1)
        assert sign in (b"?", b"."), f"the generator left without its finally block: {sign!r}"
        return sign == b"?"

    def next(self) -> None:
        self._answer(b"n")

    def fail(self) -> None:
        self._answer(b"f")

    def end(self) -> None:
        assert self._generator is not None
        self._generator.shutdown(socket.SHUT_WR)

    def reached(self) -> bool:
        """Whether a generator has come to the gate."""
        return self._generator is not None or readable(self._listener)

    def _answer(self, sign: bytes) -> None:
        assert self._generator is not None
        self._generator.sendall(sign)

    def close(self) -> None:
        self._listener.close()
        if self._generator is not None:
            self._generator.close()


def readable(sock: socket.socket) -> bool:
    """Whether a read would not wait."""
    return bool(select.select([sock], [], [], 0)[0])
