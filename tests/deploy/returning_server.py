"""A server with addresses that stay the same when it ends and starts again."""
import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import harness  # noqa: E402


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class ReturningServer(harness.Server):
    """A server that may be stopped and started again at the same ports."""

    def __init__(self, *flags):
        self.ports = free_ports(2)
        super().__init__("--port", self.ports[0], "--metrics-port", self.ports[1], "--threads", 1,
                         *flags)

    def end(self, how):
        self.process.send_signal(how)
        code = self.process.wait(40)
        self.__exit__(RuntimeError, None, None)  # what it left; its exit code is the caller's matter
        return code
