#!/usr/bin/env python3
"""Strangers on the control port: refused, logged once, and the group forms and serves all the same."""
import os
import re
import sys
import tempfile
import time

from served_cluster import Supervised
import harness
from harness import grpc, pb
import hostile_client as hostile

LAYOUT = ["--tensor-parallel-size", 2, "--dtype", "float32", "--threads", 1]
ROUNDS = 6


def version():
    return re.search(r"\d+\.\d+\.\d+", harness.run_tessera("version").stdout).group()


def tokens(stub):
    request = pb.GenerateRequest()
    request.token_ids.ids.extend(3 + i * 37 % 900 for i in range(30))
    request.sampling.temperature = 0
    request.stopping.max_tokens = 16
    request.stopping.ignore_eos = True
    return list(stub.Generate(request, timeout=60).choices[0].token_ids)


def attack(group, moment):
    """Everything that strangers can do, several times; nothing of it ends the head."""
    address, key = group.cluster.address, group.cluster.key.read_text().encode()
    for _ in range(ROUNDS):
        for what, (code, reason, status) in hostile.attack_once(address, key, version()).items():
            assert status[0] == code and reason in status[1], \
                f"{what} {moment}: {status}\n{group.report()}"
        hostile.raw(address, b"GET / HTTP/1.1\r\nHost: head\r\n\r\n")
        hostile.raw(address, os.urandom(4096))
        hostile.raw(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(512))
        unknown = grpc.insecure_channel(address)
        try:
            unknown.unary_unary("/tessera.v1.cluster.ClusterControl/Explode")(b"", timeout=10)
            raise AssertionError("an unknown method was answered")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        unknown.close()
    assert group.head.process.poll() is None, group.report()


def check_log(group):
    """Every refusal once, however often it was tried, and nothing else in the log."""
    lines = [line.split(" ", 2)[-1].strip() for line in group.head.errors().splitlines()]
    refusals = [line for line in lines if line.startswith("refused node")]
    assert len(refusals) == len(set(refusals)), "logged twice:\n" + "\n".join(refusals)
    reasons = "\n".join(refusals)
    for part in ("cluster key", "config hash", "group size", "version 99.9", "protocol version 9",
                 "greeting cannot be read", "handshake took too long",
                 "places of the group are taken"):
        assert part in reasons, f"no refusal says '{part}':\n{reasons}"
    others = [line for line in lines if not line.startswith(
        ("refused node", "tessera ", "waiting for", "loading", "KV cache", "serving", "stopping",
         "stopped"))]
    assert not others, "unexpected lines:\n" + "\n".join(others)
    return len(refusals)


def test_group_forms_and_serves(folder, expected):
    group = Supervised(folder, LAYOUT, 2)
    try:
        group.start_head()
        assert group.head.wait_for("waiting for", 60), group.report()
        attack(group, "before the group has formed")
        loiterers = hostile.loiter(group.cluster.address, 80)
        time.sleep(0.5)
        group.start_worker()
        stub = group.wait_ready()
        assert tokens(stub) == expected, group.report()
        attack(group, "while the group serves")
        second = group.start_worker()
        assert second.wait(30) == 1 and "places of the group are taken" in second.errors()
        assert tokens(stub) == expected, group.report()
        hostile.leave(loiterers)
        refusals = check_log(group)
        group.head.process.terminate()
        assert group.head.wait(20) == 0 and group.workers[0].wait(5) == 0, group.report()
    finally:
        group.end()
    print(f"ok: {2 * ROUNDS} rounds of attacks, {refusals} refusals logged", flush=True)


def test_duplicate_node(folder):
    group = Supervised(folder, ["--tensor-parallel-size", 4, "--threads", 1], 4)
    try:
        group.start_head()
        assert group.head.wait_for("waiting for", 60), group.report()
        first = group.cluster.worker("--node-index", 2)
        assert first.wait_for("joined as node 2", 60), first.errors()
        for index, reason in ((2, "wants to be node 2, but that is node 2"),
                              (4, "wants to be node 4 of a group with nodes 1 to 3")):
            other = group.cluster.worker("--node-index", index)
            assert other.wait(30) == 1 and reason in other.errors(), other.errors()
        rest = [group.cluster.worker() for _ in range(2)]
        group.wait_ready()
        group.head.process.terminate()
        assert group.head.wait(20) == 0, group.report()
        group.cluster.expect_orderly_end([first, *rest])
    finally:
        for worker in group.cluster.workers:
            worker.end()
        group.end()
    print("ok: a second node 2 is refused, the first one serves", flush=True)


def test_forged_frames(folder):
    """Between a true node and the head: the group ends with a reason, nobody crashes."""
    for what, (forge, reason) in hostile.forgeries().items():
        group = Supervised(folder, LAYOUT, 2)
        forger = hostile.Forger(
            group.cluster.address,
            # The first two frames are the handshake.
            lambda frame, number: forge(frame) if number == 4 else [frame])
        try:
            group.start_head()
            assert group.head.wait_for("waiting for", 60), group.report()
            group.cluster.address = forger.address
            group.start_worker()
            since = time.monotonic()
            assert group.head.wait(20) == 1, f"{what}\n{group.report()}"
            assert "is gone" in group.head.errors() and reason in group.head.errors(), \
                f"{what}\n{group.report()}"
            assert group.workers[0].wait(10) == 1, f"{what}\n{group.report()}"
            print(f"ok: a {what} frame ends the group, {time.monotonic() - since:.1f} s", flush=True)
        finally:
            group.end()
            forger.stop()


def main():
    with tempfile.TemporaryDirectory() as folder:
        with harness.Server("--dtype", "float32", "--threads", 1) as alone:
            expected = tokens(alone.stub)
        test_group_forms_and_serves(folder, expected)
        test_duplicate_node(folder)
        test_forged_frames(folder)


if __name__ == "__main__":
    sys.exit(main())
