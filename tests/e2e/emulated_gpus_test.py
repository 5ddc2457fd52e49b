#!/usr/bin/env python3
"""The server on emulated GPUs: through gRPC the tokens of the cpu backend, greedy and seeded.

A step takes up to a second, so prompts and answers are short.
"""
import concurrent.futures
import unittest

from harness import Server, collect, pb

FIXED = ("--dtype", "float32", "--max-model-len", 64)
TWO_GPUS = ("--backend", "cuda-emulated", "--emulated-gpus", 2)
TOKENS = 3


def requests():
    made = []
    for i in range(2):
        request = pb.GenerateRequest()
        request.token_ids.ids.extend(3 + (at * 37 + i * 101) % 900 for at in range(4 + 3 * i))
        request.sampling.temperature = 0.9 if i == 1 else 0
        request.sampling.seed = 1000 + i
        request.stopping.max_tokens = TOKENS
        request.stopping.ignore_eos = True
        made.append(request)
    return made


def answers(*flags):
    """The tokens of all requests, sent at the same time."""
    def tokens(request):
        choices, usage = collect(server.stub.StreamGenerate(request, timeout=120))
        return list(choices[0].token_ids), usage.completion_tokens

    with Server(*FIXED, *flags) as server:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(tokens, requests()))


class EmulatedGpusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.expected = answers("--backend", "cpu")
        assert all(len(tokens) == count == TOKENS for tokens, count in cls.expected), cls.expected

    def test_tensor_parallel(self):
        self.assertEqual(answers(*TWO_GPUS, "--tensor-parallel-size", 2), self.expected)

    def test_data_and_expert_parallel(self):
        self.assertEqual(answers(*TWO_GPUS, "--data-parallel-size", 2, "--enable-expert-parallel",
                                 "--moe-comm", "alltoall"), self.expected)


if __name__ == "__main__":
    unittest.main()
