"""Commands with --nodes and `tessera worker` as processes of this machine."""
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from harness import BIN, NANO, grpc, pb_grpc  # noqa: E402


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


class Supervised:
    """A served group that a supervisor would start again and again on the same ports."""

    def __init__(self, folder, layout, nodes, model=NANO, flags=()):
        self.port, self.metrics_port = free_port(), free_port()
        self.folder = pathlib.Path(folder)
        self.cluster = Cluster(folder, layout, nodes, model)
        self.flags = flags
        self.head = None
        self.workers = []
        self.channel = None

    def start_head(self):
        self.ready = self.folder / f"ready-{self.port}"
        self.ready.unlink(missing_ok=True)
        self.head = Process("serve", self.cluster.model, "--port", self.port, "--http-port", 0,
                            "--metrics-port", self.metrics_port, "--ready-file", self.ready,
                            *self.cluster.flags, *self.flags)

    def start_worker(self):
        self.workers.append(self.cluster.worker())
        return self.workers[-1]

    def start(self, workers=None):
        self.start_head()
        for _ in range(self.cluster.nodes - 1 if workers is None else workers):
            self.start_worker()

    def wait_ready(self, timeout=60):
        end = time.monotonic() + timeout
        while not self.ready.exists():
            assert time.monotonic() < end and self.head.process.poll() is None, self.report()
            time.sleep(0.01)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        return pb_grpc.InferenceStub(self.channel)

    def processes(self):
        return [self.head, *self.workers]

    def report(self):
        names = ["head", *(f"worker {i}" for i in range(1, len(self.workers) + 1))]
        return "\n".join(f"--- {name}, exit code {process.process.poll()}\n"
                         + "".join(process.errors().splitlines(True)[-8:])
                         for name, process in zip(names, self.processes()))

    def end(self):
        """Leaves nothing behind, so that the next start finds the ports free."""
        if self.channel is not None:
            self.channel.close()
        for process in self.processes():
            process.end()
        self.channel, self.head, self.workers, self.cluster.workers = None, None, [], []
