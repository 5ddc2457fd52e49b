#!/usr/bin/env python3
"""A rank that computes slowly is visible in the metrics: it has more compute time than the others,
and they have more waiting time than it. The slow one computes without vector instructions."""
import sys
import tempfile

from served_cluster import Cluster
from harness import Server, pb

LAYOUT = ["--tensor-parallel-size", 2, "--threads", 1]
CLEARLY = 1.5


def by_rank(metrics, name):
    return [metrics[f'{name}{{rank="{rank}"}}'] for rank in range(2)]


def main():
    with tempfile.TemporaryDirectory() as folder, Cluster(folder, LAYOUT) as cluster:
        cluster.worker("--cpu-isa", "portable")
        with Server(*cluster.flags) as server:
            for salt in range(6):
                request = pb.GenerateRequest()
                request.token_ids.ids.extend(3 + (i * 37 + salt * 101) % 900 for i in range(1500))
                request.stopping.max_tokens = 1
                server.stub.Generate(request, timeout=120)
            server.wait_idle()
            metrics = server.metrics()
        compute = by_rank(metrics, "tessera_rank_compute_seconds_total")
        wait = by_rank(metrics, "tessera_rank_wait_seconds_total")
        print(f"compute {compute[0]:.3f} s and {compute[1]:.3f} s, "
              f"waiting {wait[0]:.3f} s and {wait[1]:.3f} s", flush=True)
        assert compute[1] > CLEARLY * compute[0], "the slow rank does not stand out"
        assert wait[0] > CLEARLY * wait[1], "the quick rank does not wait"
        cluster.expect_orderly_end(cluster.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
