#!/usr/bin/env python3
"""The tokens of groups of 2 and 4 processes equal those of one rank that answers one by one.

Every layout serves greedy and seeded streams at the same time, in a KV cache that holds little
more than one of them: the metrics prove that blocks were taken away and that prefixes were found.

--full (or TESSERA_FULL=1): every layout with every way to exchange tokens, on 2 and on 4 processes.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

from served_cluster import NANO, Cluster
from harness import REFERENCE, Server, collect, pb

BLOCK = 4
MAX_LEN = 64
STREAMS = 16
PREFIX = 25
FIXED = ["--dtype", "float32", "--threads", 1, "--max-model-len", MAX_LEN, "--block-size", BLOCK,
         "--max-num-batched-tokens", 48, "--max-prefill-chunk", 16]


class Layout:
    def __init__(self, nodes, tp, dp=1, ep=False, comm="auto"):
        self.nodes, self.tp, self.dp, self.ep, self.comm = nodes, tp, dp, ep, comm

    def __str__(self):
        experts = f" EP {self.comm}" if self.ep else ""
        return f"{self.nodes} processes, TP{self.tp} x DP{self.dp}{experts}"

    def flags(self):
        return ["--tensor-parallel-size", self.tp, "--data-parallel-size", self.dp, "--moe-comm",
                self.comm, *(["--enable-expert-parallel"] if self.ep else [])]


NANO_LAYOUTS = [
    Layout(2, 2), Layout(2, 8), Layout(4, 4),
    Layout(2, 2, 2, True, "allreduce"), Layout(4, 2, 2, True, "auto"),
    Layout(2, 2, 4, True, "alltoall"), Layout(4, 2, 4, True, "allreduce"),
    Layout(2, 1, 8, True, "allreduce"), Layout(4, 1, 8, True, "alltoall"),
]
MOE_LAYOUTS = [Layout(4, 2, 4, True, "alltoall"), Layout(2, 1, 8, True, "allreduce")]
DENSE_LAYOUTS = [Layout(2, 4), Layout(4, 2, 2)]


def full(layouts, has_experts):
    """Every size of `layouts` with every communication on 2 and 4 processes."""
    sizes = sorted({(layout.tp, layout.dp, layout.ep) for layout in layouts})
    return [Layout(nodes, tp, dp, ep, comm)
            for tp, dp, ep in sizes for nodes in (2, 4) if (tp * dp) % nodes == 0
            for comm in (("allreduce", "alltoall", "auto") if ep and has_experts else ("auto",))]


def with_tokenizer(name, folder):
    """A copy of a tiny checkpoint with a tokenizer: its bytes, spelled as nano's tokenizer does."""
    source = REFERENCE / "models" / name
    target = pathlib.Path(folder) / name
    target.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(source / file, target / file)
    tokenizer = json.loads((NANO / "tokenizer.json").read_text())
    letters = [token for token in tokenizer["model"]["vocab"] if len(token) == 1]
    tokenizer["model"].update(vocab={token: i for i, token in enumerate(letters)}, merges=[])
    tokenizer["added_tokens"] = [dict(tokenizer["added_tokens"][0], id=len(letters))]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    return target


def requests(vocab):
    """Two of three prompts begin alike; every second request is seeded."""
    made = []
    for i in range(STREAMS):
        request = pb.GenerateRequest()
        for at in range(PREFIX + 1 + i * 7 % 19):
            salt = 0 if i % 3 != 2 and at < PREFIX else i + 1
            request.token_ids.ids.append(3 + (salt * 7919 + at * 104729 + at * at * 31) % (vocab - 3))
        request.sampling.temperature = 0 if i % 2 == 0 else 0.9
        request.sampling.top_k = 30 if i % 4 == 1 else 0
        request.sampling.top_p = 0.9 if i % 4 == 3 else 1
        request.sampling.seed = 1000 + i
        request.stopping.max_tokens = 10 + i * 5 % 11
        request.stopping.ignore_eos = True
        made.append(request)
    return made


def tokens(server, request):
    choices, _ = collect(server.stub.StreamGenerate(request, timeout=120))
    return list(choices[0].token_ids)


def scarce_kv(config, layout):
    """Bytes of a KV cache, per group, that the longest possible request fills alone."""
    heads = max(1, config["num_key_value_heads"] // layout.tp) * layout.tp
    per_token = 2 * config["num_hidden_layers"] * heads * config["head_dim"] * 4
    return MAX_LEN * per_token


def check_layout(folder, model, config, layout, expected):
    since = time.monotonic()
    # The first step waits until all streams are there: they compete, however fast the machine is.
    flags = [*FIXED, *layout.flags(), "--max-num-seqs", 6, "--kv-cache-memory",
             scarce_kv(config, layout), "--batch-wait-ms", 300]
    with Cluster(folder, flags, layout.nodes, model) as cluster:
        workers = cluster.start_workers()
        with Server(*cluster.flags, model=model) as server:
            with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
                answers = list(pool.map(lambda request: tokens(server, request),
                                        requests(config["vocab_size"])))
            metrics = server.metrics()
        cluster.expect_orderly_end(workers)
    assert answers == expected, f"{model.name}, {layout}:\n{answers}\ninstead of\n{expected}"
    counted = {name: sum(value for key, value in metrics.items() if key.startswith(name))
               for name in ("tessera_num_preemptions_total", "tessera_prefix_cache_hits_total")}
    assert all(counted.values()), f"{model.name}, {layout}: {counted}"
    print(f"ok: {model.name}, {layout}: {counted['tessera_num_preemptions_total']:.0f} preemptions, "
          f"{counted['tessera_prefix_cache_hits_total']:.0f} tokens from the prefix cache, "
          f"{time.monotonic() - since:.1f} s", flush=True)


def check_model(folder, model, layouts):
    config = json.loads((model / "config.json").read_text())
    with Server(*FIXED, "--max-num-seqs", 1, "--no-enable-prefix-caching", model=model) as alone:
        expected = [tokens(alone, request) for request in requests(config["vocab_size"])]
    assert len({tuple(answer) for answer in expected}) == STREAMS, "the texts must differ"
    for layout in layouts:
        check_layout(folder, model, config, layout, expected)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", default=os.environ.get("TESSERA_FULL") == "1")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model, layouts, has_experts in ((NANO, NANO_LAYOUTS, True),
                                            (with_tokenizer("moe", folder), MOE_LAYOUTS, True),
                                            (with_tokenizer("dense", folder), DENSE_LAYOUTS, False)):
            check_model(folder, model, full(layouts, has_experts) if arguments.full else layouts)


if __name__ == "__main__":
    sys.exit(main())
