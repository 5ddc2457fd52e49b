#!/usr/bin/env python3
"""`tessera serve --nodes 2` with one `tessera worker`: one server to its clients, one fate."""
import pathlib
import signal
import sys
import tempfile
import time

from served_cluster import Cluster
from harness import Server, chat_request, read_until_unavailable

LAYOUT = ["--tensor-parallel-size", 2, "--data-parallel-size", 2, "--enable-expert-parallel",
          "--dtype", "float32", "--threads", 1]


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
    other_key = pathlib.Path(folder) / "other"
    other_key.write_text("x" * 32)
    with Cluster(folder, LAYOUT) as cluster:
        stranger = cluster.worker(key=other_key)
        workers = cluster.start_workers()
        with Server(*cluster.flags) as server:
            assert tokens(server) == expected
            assert stranger.wait(30) == 1
            assert "cluster key" in stranger.errors()
        cluster.expect_orderly_end(workers)
    print("ok: same answers, a stranger is refused, SIGTERM ends both in order", flush=True)


def test_killed_worker(folder):
    with Cluster(folder, LAYOUT) as cluster:
        worker, = cluster.start_workers()
        with Server(*cluster.flags, expect_exit=1) as server:
            request = chat_request("Tell me a very long story.")
            request.stopping.max_tokens = 3000
            request.stopping.ignore_eos = True
            stream = server.stub.StreamGenerate(request, timeout=120)
            for _ in range(5):
                next(stream)
            since = time.monotonic()
            worker.process.send_signal(signal.SIGKILL)
            read_until_unavailable(stream)
            ended = time.monotonic() - since
            assert ended < 2, ended
            server.process.wait(max(0.1, since + 5 - time.monotonic()))
            exited = time.monotonic() - since
            assert server.process.returncode == 1, server.output()
    print(f"ok: stream UNAVAILABLE after {ended:.2f} s, head exited after {exited:.2f} s", flush=True)


def test_worker_killed_while_idle(folder):
    with Cluster(folder, LAYOUT) as cluster:
        worker, = cluster.start_workers()
        with Server(*cluster.flags, expect_exit=1) as server:
            since = time.monotonic()
            worker.process.send_signal(signal.SIGKILL)
            server.process.wait(5)
            print(f"ok: idle head exited after {time.monotonic() - since:.2f} s", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_same_answers_and_orderly_end(folder)
        test_killed_worker(folder)
        test_worker_killed_while_idle(folder)
        # A supervisor's restart serves again.
        test_same_answers_and_orderly_end(folder)


if __name__ == "__main__":
    sys.exit(main())
