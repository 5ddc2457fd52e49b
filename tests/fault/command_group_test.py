#!/usr/bin/env python3
"""`generate`, `score` and `bench` as heads of a group: the answers of one process, and its end."""
import json
import sys
import tempfile

from served_cluster import NANO, Cluster, free_port
from harness import run_json, run_tessera

ONE = ["--dtype", "float32", "--threads", 1]
LAYOUT = [*ONE, "--tensor-parallel-size", 2, "--data-parallel-size", 2, "--enable-expert-parallel"]
IDS = ",".join(str(3 + i * 37 % 900) for i in range(70))


def in_group(folder, *command, nodes=2, layout=None):
    """The JSON that a command prints when it is the head of a group."""
    with Cluster(folder, layout or LAYOUT, nodes) as cluster:
        workers = cluster.start_workers()
        printed = run_json(*command, *cluster.flags)
        cluster.expect_orderly_end(workers)
    return printed


def test_generate(folder):
    command = ["generate", NANO, "--chat", "Tell me a story.", "--max-tokens", 20, "--n", 3,
               "--seed", 7, "--temperature", 0.8]
    expected = run_json(*command, *ONE)
    for nodes in (2, 4):
        answer = in_group(folder, *command, nodes=nodes)
        assert answer == expected, f"{nodes} nodes:\n{answer}\ninstead of\n{expected}"
    assert len({json.dumps(choice["token_ids"]) for choice in expected["choices"]}) == 3, expected
    print("ok: generate on 2 and 4 nodes", flush=True)


def test_two_steps_under_way(folder):
    """The queued backend begins the next step before the results of this one are known."""
    command = ["generate", NANO, "--chat", "Tell me a story.", "--max-tokens", 12, "--n", 2,
               "--seed", 7, "--temperature", 0.8]
    queued = ["--backend", "queued"]
    expected = run_json(*command, *ONE, *queued)
    answer = in_group(folder, *command, layout=[*LAYOUT, *queued])
    assert answer == expected, f"{answer}\ninstead of\n{expected}"
    print("ok: generate on 2 nodes with two steps under way", flush=True)


def test_score(folder):
    command = ["score", NANO, "--token-ids", IDS]
    expected = run_json(*command, *ONE)
    answer = in_group(folder, *command)
    assert answer["argmax"] == expected["argmax"], f"{answer}\ninstead of\n{expected}"
    assert abs(answer["nll"] - expected["nll"]) < 1e-5, (answer["nll"], expected["nll"])
    print("ok: score on 2 nodes", flush=True)


def test_bench(folder):
    for mode in ("latency", "throughput"):
        report = in_group(folder, "bench", mode, NANO, "--num-requests", 4, "--input-len", 16,
                          "--output-len", 8, "--max-num-seqs", 4)
        assert report["failed"] == 0 and report["output_tokens_per_second"] > 0, report
        print(f"ok: bench {mode} on 2 nodes", flush=True)


def test_bad_layouts(folder):
    """Refused before anybody is waited for."""
    nodes = ["--nodes", 2, "--cluster-address", f"127.0.0.1:{free_port()}"]
    key = [*nodes, "--cluster-key-file", f"{folder}/key"]
    for command in (["generate", NANO, "--prompt", "x"], ["score", NANO, "--token-ids", "1,2"],
                    ["bench", "latency", NANO]):
        done = run_tessera(*command, *nodes, check=False)
        assert done.returncode == 2 and "--cluster-key-file" in done.stderr, done
        done = run_tessera(*command, *key, "--tensor-parallel-size", 16, check=False)
        assert done.returncode == 1 and "1, 2, 4, 8" in done.stderr, done
        done = run_tessera(*command, *key, check=False)
        assert done.returncode == 1 and "2 nodes cannot share 1 ranks" in done.stderr, done
        done = run_tessera(*command, *key, "--tensor-parallel-size", 2, "--join-timeout", 0.3,
                           check=False)
        assert done.returncode == 1 and "1 of 1 nodes have not joined" in done.stderr, done
    print("ok: layouts that do not work are refused", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_generate(folder)
        test_two_steps_under_way(folder)
        test_score(folder)
        test_bench(folder)
        test_bad_layouts(folder)


if __name__ == "__main__":
    sys.exit(main())
