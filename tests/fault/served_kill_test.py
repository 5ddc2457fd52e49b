#!/usr/bin/env python3
"""A process of a served group is killed or stopped in a random phase: the group ends in time, and a
restart on the same ports serves the same tokens.

--runs N kills, --stops N SIGSTOPs, --seed S; or TESSERA_FAULT_RUNS, TESSERA_FAULT_STOPS and
TESSERA_FAULT_SEED. Every run prints the command that repeats it.
"""
import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time

from served_cluster import Supervised
from harness import grpc, pb

PHASES = ["join", "loading", "idle", "prefill", "decode", "drain"]
LAYOUTS = [(2, 2, 1), (2, 2, 2), (4, 4, 1), (4, 1, 4), (4, 2, 4)]  # nodes, TP, DP
STREAMS = 4
STREAM_END = 2.0  # seconds until every stream has ended
GROUP_END = 5.0   # seconds until every process has exited
STOP_LIMIT = 3.0  # --step-timeout of the runs with SIGSTOP
STOP_SLACK = 1.0


def token_request(length, max_tokens):
    request = pb.GenerateRequest()
    request.token_ids.ids.extend(3 + i * 37 % 900 for i in range(length))
    request.sampling.temperature = 0
    request.stopping.max_tokens = max_tokens
    request.stopping.ignore_eos = True
    return request


class Stream(threading.Thread):
    """One generation; remembers how many messages came, and how and when it ended."""

    def __init__(self, stub, request):
        super().__init__(daemon=True)
        self.call = stub.StreamGenerate(request, timeout=120)
        self.messages = 0
        self.code = self.ended = None
        self.start()

    def run(self):
        try:
            for _ in self.call:
                self.messages += 1
            self.code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.code = error.code()
        self.ended = time.monotonic()


def wait_until(condition, what, group, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen\n{group.report()}"
        time.sleep(0.005)


class Run:
    """One group brought into a phase; then one of its processes gets a signal."""

    def __init__(self, seed, folder, expected):
        self.rng = random.Random(seed)
        self.expected = expected
        self.folder = folder
        self.streams = []

    def make_group(self, flags=()):
        nodes, tp, dp = self.rng.choice(LAYOUTS)
        layout = ["--tensor-parallel-size", tp, "--data-parallel-size", dp, "--dtype", "float32",
                  "--threads", 1, "--max-prefill-chunk", 16, "--max-num-batched-tokens", 64,
                  *(["--enable-expert-parallel"] if self.rng.random() < 0.5 else [])]
        self.what = f"{nodes} processes, TP{tp} x DP{dp}"
        return Supervised(self.folder, layout, nodes, flags=flags)

    def reach(self, group, phase):
        """Starts the group and lets it run into the phase."""
        if phase == "join":
            # One place stays empty, or with two nodes the head waits alone.
            group.start(workers=group.cluster.nodes - 2)
            assert group.head.wait_for("waiting for", 60), group.report()
            for worker in group.workers:
                assert worker.wait_for("joined", 60), group.report()
            return
        group.start()
        if phase == "loading":
            for worker in group.workers:
                assert worker.wait_for("joined", 60), group.report()
            time.sleep(self.rng.random() * 0.2)
            return
        stub = group.wait_ready()
        self.check_serves(stub, group)
        if phase == "idle":
            time.sleep(self.rng.random() * 0.2)
            return
        length = 3000 if phase == "prefill" else 20
        self.streams = [Stream(stub, token_request(length + i, 1000)) for i in range(STREAMS)]
        if phase == "prefill":
            time.sleep(0.05 + self.rng.random() * 0.2)
            return
        wait_until(lambda: all(s.messages > 2 for s in self.streams), "decoding", group)
        if phase == "drain":
            group.head.process.send_signal(signal.SIGTERM)
            assert group.head.wait_for("stopping", 10), group.report()
        time.sleep(self.rng.random() * 0.2)

    def check_serves(self, stub, group):
        tokens = list(stub.Generate(token_request(30, 12), timeout=60).choices[0].token_ids)
        if not self.expected:
            self.expected.extend(tokens)
        assert tokens == self.expected, f"{tokens} instead of {self.expected}\n{group.report()}"

    def check_streams(self, group, since, limit):
        for stream in self.streams:
            stream.join(max(0.0, since + limit - time.monotonic()))
            assert stream.ended is not None, f"a stream goes on after {limit} s\n{group.report()}"
            assert stream.code == grpc.StatusCode.UNAVAILABLE, f"{stream.code}\n{group.report()}"

    def check_exits(self, group, victim, since):
        for process in group.processes():
            if process is victim:
                continue
            code = process.wait(since + GROUP_END - time.monotonic())
            assert code is not None, f"still running after {GROUP_END} s\n{group.report()}"
            assert code != 0, f"exit code 0 of a failed group\n{group.report()}"


def end_time(streams, since):
    ended = max((s.ended for s in streams), default=None)
    return "no streams" if ended is None else f"streams ended after {ended - since:.2f} s"


def kill_once(seed, folder, expected):
    run = Run(seed, folder, expected)
    group = run.make_group()
    phase = run.rng.choice(PHASES)
    try:
        run.reach(group, phase)
        victim = group.head if run.rng.random() < 0.3 or not group.workers \
            else run.rng.choice(group.workers)
        since = time.monotonic()
        victim.process.send_signal(signal.SIGKILL)
        run.check_streams(group, since, STREAM_END)
        run.check_exits(group, victim, since)
        who = "the head" if victim is group.head else "a worker"
        print(f"ok: {run.what}: killed {who}, phase {phase}: {end_time(run.streams, since)}, all "
              f"over after {time.monotonic() - since:.2f} s", flush=True)
        group.end()
        # What a supervisor does.
        group.start()
        run.check_serves(group.wait_ready(), group)
    finally:
        group.end()


def stop_once(seed, folder, expected):
    run = Run(seed, folder, expected)
    group = run.make_group(["--step-timeout", STOP_LIMIT])
    phase = run.rng.choice(["idle", "prefill", "decode"])
    try:
        run.reach(group, phase)
        victim = group.head if run.rng.random() < 0.3 else run.rng.choice(group.workers)
        since = time.monotonic()
        victim.process.send_signal(signal.SIGSTOP)
        # The head says so when it notices; workers without a head exit at once.
        if victim is group.head:
            assert group.workers[0].wait(3 * STOP_LIMIT) is not None, group.report()
        else:
            assert group.head.wait_for(" error ", 3 * STOP_LIMIT), group.report()
        took = time.monotonic() - since
        assert abs(took - STOP_LIMIT) <= STOP_SLACK, f"noticed after {took:.2f} s\n{group.report()}"
        run.check_exits(group, victim, time.monotonic())
        victim.process.send_signal(signal.SIGCONT)
        code = victim.wait(GROUP_END)
        assert code not in (None, 0), f"the stopped process: {code}\n{group.report()}"
        who = "the head" if victim is group.head else "a worker"
        print(f"ok: {run.what}: stopped {who}, phase {phase}: noticed after {took:.2f} s", flush=True)
        group.end()
        group.start()
        run.check_serves(group.wait_ready(), group)
    finally:
        group.end()


def number(name, default):
    return int(os.environ.get(name, default))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=number("TESSERA_FAULT_RUNS", 20))
    parser.add_argument("--stops", type=int, default=number("TESSERA_FAULT_STOPS", 5))
    parser.add_argument("--seed", type=int,
                        default=number("TESSERA_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
    arguments = parser.parse_args()
    expected = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, once, count in (("runs", kill_once, arguments.runs),
                                  ("stops", stop_once, arguments.stops)):
            for i in range(count):
                seed = arguments.seed + i
                other = "stops" if kind == "runs" else "runs"
                print(f"to repeat: {sys.argv[0]} --{kind} 1 --{other} 0 --seed {seed}", flush=True)
                once(seed, folder, expected)


if __name__ == "__main__":
    sys.exit(main())
