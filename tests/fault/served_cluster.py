"""Commands with --nodes and `tessera worker` as processes of this machine."""
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from harness import BIN, NANO  # noqa: E402


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A tessera command; what it writes to stderr is kept."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([BIN, *map(str, arguments)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self._lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._lines.append(line)

    def errors(self):
        return "".join(self._lines)

    def wait(self, timeout):
        """The exit code; None when it still runs at the end of the timeout."""
        try:
            code = self.process.wait(max(0.0, timeout))
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(5)
        return code

    def wait_for(self, text, timeout):
        """Whether the text appears in what it writes to stderr in time."""
        end = time.monotonic() + timeout
        while text not in self.errors():
            if time.monotonic() > end or self.process.poll() is not None:
                return text in self.errors()
            time.sleep(0.01)
        return True

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()


class Cluster:
    """The address and key of a group; flags of its head, and its workers. A context manager."""

    def __init__(self, folder, layout, nodes=2, model=NANO):
        self.nodes = nodes
        self.model = model
        self.key = pathlib.Path(folder) / "key"
        self.key.write_text(os.urandom(32).hex())
        self.address = f"127.0.0.1:{free_port()}"
        self.flags = [*layout, "--nodes", nodes, "--cluster-address", self.address,
                      "--cluster-key-file", self.key]
        self.workers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.end()

    def worker(self, *flags, key=None, model=None):
        worker = Process("worker", model or self.model, "--join", self.address, "--threads", 1,
                         "--cluster-key-file", key or self.key, *flags)
        self.workers.append(worker)
        return worker

    def start_workers(self):
        return [self.worker() for _ in range(self.nodes - 1)]

    def expect_orderly_end(self, workers, timeout=10):
        for worker in workers:
            code = worker.wait(timeout)
            assert code == 0, f"a worker ended with {code}:\n{worker.errors()}"
