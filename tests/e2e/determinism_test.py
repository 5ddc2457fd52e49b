"""Tokens and logprobs of a request, bit for bit: alone, in company, in small chunks, after
preemptions and on top of cached prefixes, in float32 and in bfloat16."""
import random
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import Server, collect, pb

CONTEXT = 512
KIB_PER_TOKEN = {"float32": 4, "bfloat16": 2}  # of the nano model's keys and values
TOKENS_IN_CACHE = 1024  # the requests together want some 4,000


def draw_requests(rng):
    shared = [rng.randrange(1600) for _ in range(200)]
    requests = []
    for index in range(20):
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


def answer(server, request):
    choices, _ = collect(server.stub.StreamGenerate(request))
    return {index: (list(choice.token_ids), choice.text,
                    [entry.SerializeToString() for entry in choice.logprobs])
            for index, choice in choices.items()}


class DeterminismTest(unittest.TestCase):
    def compare(self, dtype):
        requests = draw_requests(random.Random(dtype))
        common = ("--dtype", dtype, "--max-model-len", CONTEXT)
        with Server(*common, "--no-enable-prefix-caching", "--threads", 1) as server:
            alone = [answer(server, request) for request in requests]
            self.assertEqual(server.metrics()["tessera_num_preemptions_total"], 0)
        memory = f"{TOKENS_IN_CACHE * KIB_PER_TOKEN[dtype]}KiB"
        with Server(*common, "--kv-cache-memory", memory, "--max-prefill-chunk", 23,
                    "--max-num-batched-tokens", 61, "--max-num-seqs", 24, "--block-size", 8,
                    "--threads", 2) as server:
            for _ in range(2):
                with ThreadPoolExecutor(len(requests)) as pool:
                    together = list(pool.map(lambda request: answer(server, request), requests))
                for index, (one, many) in enumerate(zip(alone, together)):
                    with self.subTest(dtype=dtype, request=index):
                        self.assertEqual(one, many)
            metrics = server.metrics()
            self.assertGreater(metrics["tessera_num_preemptions_total"], 0)
            self.assertGreater(metrics["tessera_prefix_cache_hits_total"], 0)
            self.assertEqual(server.wait_idle().kv_blocks_used, 0)

    def test_float32(self):
        self.compare("float32")

    def test_bfloat16(self):
        self.compare("bfloat16")


if __name__ == "__main__":
    unittest.main()
