"""Heads and workers as processes of this machine (see cluster_node.cc)."""
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

CLUSTER_NODE = os.environ["CLUSTER_NODE"]
MODEL = os.environ["TESSERA_NANO_MODEL"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """A process whose lines are kept with the time of their arrival."""

    def __init__(self, arguments, prefix=()):
        self.process = subprocess.Popen([*prefix, CLUSTER_NODE, *map(str, arguments)],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, bufsize=1)
        self.lines = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def output(self):
        with self._changed:
            return [line for _, line in self.lines]

    def wait_for(self, beginning, timeout):
        """When a line with this beginning arrived; None when it did not in time."""
        def find():
            return next((at for at, line in self.lines if line.startswith(beginning)), None)
        with self._changed:
            self._changed.wait_for(lambda: self._ended or find() is not None, timeout)
            return find()

    def exit_code(self, timeout):
        """None when the process still runs at the end of the timeout."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(5)
        return code

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Layout:
    def __init__(self, nodes, tp, dp=1, ep=False):
        self.nodes, self.tp, self.dp, self.ep = nodes, tp, dp, ep

    def __str__(self):
        return (f"{self.nodes} processes, TP{self.tp} x DP{self.dp}"
                f"{' with expert parallelism' if self.ep else ''}")


class Group:
    """One head and its workers."""

    def __init__(self, layout, steps, step_timeout=60):
        self.layout = layout
        self._folder = tempfile.TemporaryDirectory()
        key = pathlib.Path(self._folder.name) / "key"
        key.write_text(os.urandom(32).hex())
        address = f"127.0.0.1:{free_port()}"
        self.head = Node(["head", layout.nodes, layout.tp, layout.dp, int(layout.ep), address, key,
                          MODEL, steps, step_timeout])
        self.workers = [Node(["worker", address, key, MODEL]) for _ in range(layout.nodes - 1)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes():
            node.kill()
        self._folder.cleanup()

    def nodes(self):
        return [self.head, *self.workers]

    def report(self):
        return "\n".join(f"--- {name}\n" + "\n".join(node.output()[-5:])
                         for name, node in [("head", self.head)] +
                         [(f"worker {i}", w) for i, w in enumerate(self.workers, 1)])


def run(layout, steps, timeout=180):
    """The lines "tokens GROUP KIND ids" of a run in which nothing goes wrong."""
    with Group(layout, steps) as group:
        for node in group.nodes():
            code = node.exit_code(timeout)
            assert code == 0, f"{layout}: exit code {code}\n{group.report()}"
        return sorted(line for line in group.head.output() if line.startswith("tokens"))
