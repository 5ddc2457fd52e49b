#!/usr/bin/env python3
"""`tessera serve --nodes 2` with one `tessera worker`: one server to its clients, one fate."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from harness import BIN, NANO, Server, chat_request, grpc, pb  # noqa: E402

LAYOUT = ["--tensor-parallel-size", 2, "--data-parallel-size", 2, "--enable-expert-parallel",
          "--dtype", "float32", "--threads", 1]


class Cluster:
    """Flags of a head, and its worker."""

    def __init__(self, folder):
        self.key = pathlib.Path(folder) / "key"
        self.key.write_text(os.urandom(32).hex())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.flags = [*LAYOUT, "--nodes", 2, "--cluster-address", self.address,
                      "--cluster-key-file", self.key]

    def worker(self, key=None):
        return subprocess.Popen(
            [BIN, "worker", str(NANO), "--join", self.address, "--threads", "1",
             "--cluster-key-file", str(key or self.key)],
            stderr=subprocess.PIPE, text=True)


def tokens(server):
    texts = []
    for prompt in ("Tell me a story.", "Name three colours."):
        request = chat_request(prompt)
        request.stopping.max_tokens = 24
        texts.append(server.stub.Generate(request, timeout=60).choices[0].text)
    return texts


def test_same_answers_and_orderly_end(folder):
    with Server("--dtype", "float32", "--threads", 1) as alone:
        expected = tokens(alone)
    cluster = Cluster(folder)
    other_key = pathlib.Path(folder) / "other"
    other_key.write_text("x" * 32)
    stranger = cluster.worker(other_key)
    worker = cluster.worker()
    with Server(*cluster.flags) as server:
        assert tokens(server) == expected
        assert stranger.wait(30) == 1
        assert "cluster key" in stranger.stderr.read()
    assert worker.wait(10) == 0, worker.stderr.read()
    print("ok: same answers, a stranger is refused, SIGTERM ends both in order", flush=True)


def test_killed_worker(folder):
    cluster = Cluster(folder)
    worker = cluster.worker()
    with Server(*cluster.flags, expect_exit=1) as server:
        request = chat_request("Tell me a very long story.")
        request.stopping.max_tokens = 3000
        request.stopping.ignore_eos = True
        stream = server.stub.StreamGenerate(request, timeout=120)
        for _ in range(5):
            next(stream)
        since = time.monotonic()
        worker.send_signal(signal.SIGKILL)
        try:
            for _ in stream:
                pass
            raise AssertionError("the stream ended as if nothing had happened")
        except grpc.RpcError as error:
            ended = time.monotonic() - since
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            assert ended < 2, ended
        server.process.wait(max(0.1, since + 5 - time.monotonic()))
        exited = time.monotonic() - since
        assert server.process.returncode == 1, server.output()
    worker.wait()
    print(f"ok: stream UNAVAILABLE after {ended:.2f} s, head exited after {exited:.2f} s", flush=True)


def test_worker_killed_while_idle(folder):
    cluster = Cluster(folder)
    worker = cluster.worker()
    with Server(*cluster.flags, expect_exit=1) as server:
        since = time.monotonic()
        worker.send_signal(signal.SIGKILL)
        server.process.wait(5)
        print(f"ok: idle head exited after {time.monotonic() - since:.2f} s", flush=True)
    worker.wait()


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_same_answers_and_orderly_end(folder)
        test_killed_worker(folder)
        test_worker_killed_while_idle(folder)
        # A supervisor's restart serves again.
        test_same_answers_and_orderly_end(folder)


if __name__ == "__main__":
    sys.exit(main())
