"""Tokens and logprobs of a request, bit for bit: alone, in company, in small chunks, after
preemptions and on top of cached prefixes, in float32 and in bfloat16, on one rank and with experts
spread over four whose activations are bfloat16 as on a GPU."""
import random
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import Server, collect, pb

CONTEXT = 512
KIB_PER_TOKEN = {"float32": 4, "bfloat16": 2}  # of the nano model's keys and values


def draw_requests(rng, count):
    shared = [rng.randrange(1600) for _ in range(200)]
    requests = []
    for index in range(count):
        prompt = shared[:rng.choice([0, 16, 100, 200])]
        prompt += [rng.randrange(1600) for _ in range(rng.choice([1, 5, 40, 150]))]
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt))
        request.sampling.temperature = rng.choice([0, 0.8, 1.3])
        request.sampling.seed = index
        request.sampling.top_k = 0
        request.sampling.top_p = 1
        if index % 4 == 0:
            request.sampling.repetition_penalty = 1.2
        request.n = 1 + (index % 8 == 0)
        request.stopping.max_tokens = rng.choice([3, 30, 60])
        request.stopping.ignore_eos = True
        request.response.logprobs = 4
        requests.append(request)
    return requests


def crowded(dtype, tokens_in_cache):
    """Flags of a server that has to divide, to preempt and to find prefixes again."""
    return ("--kv-cache-memory", f"{tokens_in_cache * KIB_PER_TOKEN[dtype]}KiB",
            "--max-prefill-chunk", 23, "--max-num-batched-tokens", 61, "--max-num-seqs", 24,
            "--block-size", 8)


def answer(server, request):
    choices, _ = collect(server.stub.StreamGenerate(request))
    return {index: (list(choice.token_ids), choice.text,
                    [entry.SerializeToString() for entry in choice.logprobs])
            for index, choice in choices.items()}


class DeterminismTest(unittest.TestCase):
    def compare(self, dtype):
        """The requests together want some 4,000 tokens, four times what the cache holds."""
        requests = draw_requests(random.Random(dtype), 20)
        common = ("--dtype", dtype, "--max-model-len", CONTEXT)
        with Server(*common, "--no-enable-prefix-caching", "--threads", 1) as server:
            alone = [answer(server, request) for request in requests]
            self.assertEqual(server.metrics()["tessera_num_preemptions_total"], 0)
        with Server(*common, *crowded(dtype, 1024), "--threads", 2) as server:
            for _ in range(2):
                self.compare_together(server, requests, alone)
            self.assertGreater(server.metrics()["tessera_num_preemptions_total"], 0)

    def compare_together(self, server, requests, alone):
        with ThreadPoolExecutor(len(requests)) as pool:
            together = list(pool.map(lambda request: answer(server, request), requests))
        for index, (one, many) in enumerate(zip(alone, together)):
            with self.subTest(request=index):
                self.assertEqual(one, many)
        self.assertGreater(server.metrics()["tessera_prefix_cache_hits_total"], 0)
        self.assertEqual(server.wait_idle().kv_blocks_used, 0)

    def test_float32(self):
        self.compare("float32")

    def test_bfloat16(self):
        self.compare("bfloat16")

    def test_bfloat16_activations_and_experts_on_four_ranks(self):
        """On one server: another one may choose the other way to exchange tokens."""
        requests = draw_requests(random.Random(4), 12)
        with Server("--backend", "queued", "--dtype", "bfloat16", "--max-model-len", CONTEXT,
                    "--tensor-parallel-size", 2, "--data-parallel-size", 2,
                    "--enable-expert-parallel", *crowded("bfloat16", CONTEXT)) as server:
            alone = [answer(server, request) for request in requests]
            self.compare_together(server, requests, alone)
            chosen = [name for name in server.metrics() if name.startswith("tessera_moe_comm_info")]
            self.assertEqual(len(chosen), 1, chosen)
            self.assertIn(" in all steps", server.output())


if __name__ == "__main__":
    unittest.main()
