#!/usr/bin/env python3
"""Supervisors that end a group: all of its processes at once, or one of them, at any moment."""
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from served_cluster import Supervised
from harness import BIN, NANO, chat_request, collect, grpc, pb, read_until_unavailable

TOKENS = 600


def long_request(tokens=TOKENS):
    request = chat_request("Count: 1 2 3")
    request.stopping.ignore_eos = True
    request.stopping.max_tokens = tokens
    return request


class GroupTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.group = Supervised(self.folder.name, ["--tensor-parallel-size", 2], 2)

    def tearDown(self):
        self.group.end()
        self.folder.cleanup()

    def requests_survive(self, signalled):
        """4 streams run; the processes that `signalled` picks get SIGTERM."""
        self.group.start()
        stub = self.group.wait_ready()
        lengths = []

        def client():
            choices, _ = collect(stub.StreamGenerate(long_request()))
            lengths.append(len(choices[0].token_ids))

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        while stub.GetLoad(pb.GetLoadRequest()).num_running < len(threads):
            time.sleep(0.005)
        for process in signalled():
            process.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        self.assertEqual(lengths, [TOKENS] * len(threads), self.group.report())
        for process in self.group.processes():
            self.assertEqual(process.wait(20), 0, self.group.report())
        self.assertFalse(self.group.ready.exists())

    def test_all_at_once(self):
        self.requests_survive(lambda: [*self.group.workers, self.group.head])

    def test_a_worker_alone_makes_the_head_drain(self):
        self.requests_survive(lambda: self.group.workers)

    def test_while_it_loads_or_waits(self):
        """Whoever does not serve yet leaves at once."""
        self.group.start(workers=0)
        worker = self.group.cluster.worker("--join-timeout", "60")
        self.group.workers.append(worker)
        time.sleep(0.2)
        for process in self.group.processes():
            process.process.send_signal(signal.SIGTERM)
        for process in self.group.processes():
            self.assertEqual(process.wait(10), 0, self.group.report())

    def test_a_head_that_does_not_end_is_waited_for_no_longer_than_the_bound(self):
        self.group.start_head()
        self.group.workers.append(self.group.cluster.worker("--drain-timeout", "0.5"))
        stream = self.group.wait_ready().StreamGenerate(long_request(4000))
        next(stream)
        self.group.workers[0].process.send_signal(signal.SIGTERM)
        self.assertEqual(self.group.workers[0].wait(10), 1)
        self.assertIn("--drain-timeout", self.group.workers[0].errors())
        read_until_unavailable(stream)
        self.assertEqual(self.group.head.wait(10), 1)


class FirstMomentsTest(unittest.TestCase):
    def await_first_instruction(self, process):
        """Until then it is the loader's, or Python's."""
        mask = 1 << (signal.SIGTERM - 1)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            blocked = int(status.split("SigBlk:")[1].split()[0], 16)
            if "tessera" in status.splitlines()[0] and blocked & mask:
                return
        self.fail("SIGTERM is never held back")

    def test_a_server_that_is_told_to_stop_at_once_exits_in_order(self):
        key = tempfile.NamedTemporaryFile()
        self.addCleanup(key.close)
        key.write(b"0123456789abcdef")
        key.flush()
        for command in (["serve", NANO, "--port", "0", "--metrics-port", "0"],
                        ["worker", NANO, "--join", "127.0.0.1:9", "--cluster-key-file", key.name]):
            for milliseconds in (0, 1, 2, 4, 8, 16, 30, 60, 120, 240):
                process = subprocess.Popen([BIN, *map(str, command)], stderr=subprocess.PIPE,
                                           text=True)
                self.await_first_instruction(process)
                time.sleep(milliseconds / 1000)
                process.send_signal(signal.SIGTERM)
                _, errors = process.communicate(timeout=30)
                self.assertEqual(process.returncode, 0, f"{command[0]}, {milliseconds} ms: {errors}")


class ReadyFileTest(unittest.TestCase):
    def test_tells_of_the_present_only(self):
        with tempfile.TemporaryDirectory() as folder:
            ready = pathlib.Path(folder) / "ready"
            ready.write_text("of the last run")
            process = subprocess.Popen([BIN, "serve", str(NANO), "--port", "0", "--metrics-port",
                                        "0", "--ready-file", str(ready), "--drain-delay", "1"],
                                       stderr=subprocess.PIPE, text=True)
            # Lines come in order: the file is gone before the first one.
            self.assertIn("tessera", process.stderr.readline())
            if ready.exists():
                self.assertIn(f'"pid": {process.pid}', ready.read_text())
            for line in process.stderr:
                if "serving" in line:
                    break
            while not ready.exists():
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            end = time.monotonic() + 0.9  # long before the drain ends
            while ready.exists():
                self.assertLess(time.monotonic(), end)
                time.sleep(0.005)
            process.stderr.read()
            process.stderr.close()
            self.assertEqual(process.wait(30), 0)
            self.assertFalse(ready.exists())


if __name__ == "__main__":
    unittest.main()
