#!/usr/bin/env python3
"""Experts move between the ranks of two processes while requests run: the same texts as one rank,
and the metrics of every rank on the head's page."""
import json
import pathlib
import subprocess
import sys
import tempfile

from served_cluster import Cluster
from harness import BIN, NANO, Server, chat_request

PROMPTS = [f"Tell me a story about the number {n}." for n in range(6)]


def texts(server):
    futures = []
    for prompt in PROMPTS:
        request = chat_request(prompt)
        request.stopping.max_tokens = 64
        request.stopping.ignore_eos = True
        futures.append(server.stub.Generate.future(request, timeout=120))
    return [future.result().choices[0].text for future in futures]


def expect_rank_metrics(metrics):
    for rank in range(4):
        label = f'{{rank="{rank}"}}'
        assert metrics[f"tessera_rank_up{label}"] == 1
        assert metrics[f"tessera_rank_compute_seconds_total{label}"] > 0
        assert metrics[f"tessera_rank_wait_seconds_total{label}"] > 0
        assert metrics[f"tessera_expert_tokens_total{label}"] > 0
    moved = sum(metrics[f'tessera_expert_moved_bytes_total{{rank="{r}"}}'] for r in range(4))
    assert moved > 0, "no rank has loaded an expert"
    # An even spread is 1; four layers fall into four of the eight buckets.
    ratios = [metrics[f'tessera_expert_load_ratio{{layer_bucket="{b}/8"}}'] for b in (1, 3, 5, 7)]
    assert all(1 <= ratio <= 4 for ratio in ratios), ratios


def test_moves_between_processes(folder, mode):
    with Server("--dtype", "float32", "--threads", 1) as alone:
        expected = texts(alone)
    stats = pathlib.Path(folder) / f"stats-{mode}.json"
    layout = ["--tensor-parallel-size", 2, "--data-parallel-size", 2, "--enable-expert-parallel",
              "--dtype", "float32", "--threads", 1, "--moe-comm", mode,
              "--expert-rebalance-interval", 8, "--expert-stats-file", stats]
    with Cluster(folder, layout) as cluster:
        workers = cluster.start_workers()
        with Server(*cluster.flags) as server:
            for round_number in range(60):
                assert texts(server) == expected, f"round {round_number}"
                metrics = server.metrics()
                completed = metrics['tessera_expert_moves_total{result="completed"}']
                if completed >= 2:
                    break
            assert completed >= 2, "experts have not moved"
            assert metrics['tessera_expert_moves_total{result="failed"}'] == 0
            assert metrics['tessera_expert_moves_total{result="timed_out"}'] == 0
            flips = metrics["tessera_expert_placement_version"]
            assert flips >= completed
            expect_rank_metrics(metrics)
            assert texts(server) == expected, "after the moves"
            assert "experts may move every 8 steps" in server.output()
        cluster.expect_orderly_end(workers)
    layers = json.loads(stats.read_text())["layers"]
    assert len(layers) == 4 and all(len(layer) == 16 and sum(layer) > 0 for layer in layers)
    plan = subprocess.run([BIN, "plan", str(NANO), "--gpus", "4", "--gpu", "h100", "--expert-stats",
                           str(stats)], capture_output=True, text=True, check=True)
    assert "worst" in plan.stdout, plan.stdout
    print(f"ok: {mode}: {completed:.0f} layers moved in {flips:.0f} switches, the same texts",
          flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("alltoall", "allreduce"):
            test_moves_between_processes(folder, mode)


if __name__ == "__main__":
    sys.exit(main())
