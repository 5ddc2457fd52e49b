#!/usr/bin/env python3
"""Time that jumps and time that a process misses: the wall clock is set by hours while groups of
ranks run, and processes are stopped for longer than a step may take. Nobody notices."""
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from served_cluster import Supervised
from harness import NANO, Server, chat_request, collect, grpc, pb

HERE = pathlib.Path(__file__).resolve().parent
HOUR = 3600

# How ranks wait for each other: on a carrier's thread that waits for the step, on threads of their
# own, with two steps under way behind a device's queue.
GROUPS = {
    "shared thread": ["--data-parallel-size", 2, "--threads", 1],
    "own threads": ["--tensor-parallel-size", 2, "--threads", 2],
    "queues": ["--backend", "queued", "--data-parallel-size", 2, "--dtype", "float32"],
}


def long_request(tokens=400):
    request = chat_request("Count: 1 2 3")
    request.stopping.ignore_eos = True
    request.stopping.max_tokens = tokens
    return request


class Clock:
    """The wall clock of processes that are started with `environment`."""

    def __init__(self, folder):
        self.file = open(pathlib.Path(folder) / "shift", "w+b")
        self.set(0)
        library = pathlib.Path(folder) / "shifted_clock.so"
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-Wall", "-Werror", "-shared", "-fPIC",
                        "-o", library, HERE / "shifted_clock.c"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "TESSERA_CLOCK_SHIFT": self.file.name}

    def set(self, seconds):
        self.file.seek(0)
        self.file.write(struct.pack("=q", seconds))
        self.file.flush()


class SetClockTest(unittest.TestCase):
    """Forward, back, and back beyond the start."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock(self.folder.name)
        self.before = dict(os.environ)
        os.environ.update(self.clock.environment)

    def tearDown(self):
        os.environ.clear()
        os.environ.update(self.before)
        self.clock.file.close()
        self.folder.cleanup()

    def streams_survive(self, stub):
        stream = stub.StreamGenerate(long_request(), timeout=60)
        messages = 0
        for _ in stream:
            messages += 1
            self.clock.set({10: HOUR, 60: -HOUR, 110: 3 * HOUR, 160: 0}.get(messages,
                           struct.unpack("=q", pathlib.Path(self.clock.file.name).read_bytes())[0]))
        self.assertGreater(messages, 160)
        self.assertEqual(stream.code(), grpc.StatusCode.OK)

    def test_groups(self):
        for name, flags in GROUPS.items():
            self.clock.set(0)
            with self.subTest(name), Server(*flags) as server:
                self.streams_survive(server.stub)
                # A deadline is a distance, whatever the clock shows meanwhile.
                started = time.monotonic()
                stream = server.stub.StreamGenerate(long_request(4000), timeout=0.7)
                next(stream)
                self.clock.set(-HOUR)
                with self.assertRaises(grpc.RpcError) as caught:
                    collect(stream)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
                server.wait_idle(3)
                self.assertLess(time.monotonic() - started, 4)

    def test_processes(self):
        group = Supervised(self.folder.name, ["--tensor-parallel-size", 2], 2)
        group.start()
        try:
            self.streams_survive(group.wait_ready())
            self.clock.set(HOUR)
            group.head.process.send_signal(signal.SIGTERM)
            for process in group.processes():
                self.assertEqual(process.wait(20), 0, group.report())
        finally:
            group.end()


class StoppedProcessTest(unittest.TestCase):
    """A process that was stopped as a whole has not been slow."""

    def test_groups_go_on(self):
        for name, flags in {**GROUPS, "one rank": []}.items():
            with self.subTest(name), Server(*flags, "--step-timeout", "1") as server:
                expected, _ = collect(server.stub.StreamGenerate(long_request(300)))
                choices, stream = [], server.stub.StreamGenerate(long_request(300))
                choices.append(next(stream))
                for _ in range(2):
                    server.process.send_signal(signal.SIGSTOP)
                    time.sleep(2.5)
                    server.process.send_signal(signal.SIGCONT)
                    choices.append(next(stream))
                choices.extend(stream)
                ids = [i for message in choices for c in message.choices for i in c.token_ids]
                self.assertEqual(ids, list(expected[0].token_ids))
                self.assertEqual(server.get("/healthz")[0], 200)


if __name__ == "__main__":
    unittest.main()
