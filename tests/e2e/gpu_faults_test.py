#!/usr/bin/env python3
"""Machines whose GPUs cannot be used, or not for long: one sentence says what is missing, nothing
hangs, and clients learn of it. Emulated GPUs play the machine."""
import os
import pathlib
import tempfile
import time
import unittest
from unittest import mock

from harness import NANO, Server, collect, pb, read_until_unavailable, run_tessera

MIB = 1 << 20
CHEAP = {"TESSERA_EMULATION_RACES": "0", "TESSERA_EMULATION_PREEMPT": "0"}
EMULATED = ("--backend", "cuda-emulated")
TWO = (*EMULATED, "--emulated-gpus", 2, "--tensor-parallel-size", 2)
STEP_TIMEOUT = 60
TOKENS = 4


class GpuFaultsTest(unittest.TestCase):
    def refusal(self, *flags, command="generate", **variables):
        """The one line with which the command refuses to start."""
        extra = ("--prompt", "Hi", "--max-tokens", 1) if command == "generate" else (
            "--port", 0, "--metrics-port", 0)
        with mock.patch.dict(os.environ, {**CHEAP, **variables}):
            done = run_tessera(command, NANO, *extra, *flags, check=False, timeout=240)
        self.assertEqual(done.returncode, 1, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("tessera ")]
        self.assertEqual(len(lines), 1, done.stderr)
        return lines[0]

    def test_driver(self):
        for command in ("generate", "serve"):
            for version, said in (("0", "this machine has no NVIDIA driver"),
                                  ("12020", "made for CUDA 12.2, but this program needs 13.0")):
                self.assertIn(said, self.refusal(*EMULATED, command=command,
                                                 TESSERA_EMULATION_DRIVER=version))

    def test_gpus(self):
        self.assertIn("finds no GPU in this machine",
                      self.refusal(*EMULATED, TESSERA_EMULATION_GPUS="0"))
        since = time.monotonic()
        self.assertRegex(
            self.refusal(*EMULATED, "--emulated-gpus", 2, "--tensor-parallel-size", 4),
            "there is no GPU [23] to run on: this machine has 2")
        # The others, which wait for these two to connect, do not wait until they time out.
        self.assertLess(time.monotonic() - since, 60)
        self.assertIn("has compute capability 7.5, but the kernels of this program need 8.0",
                      self.refusal(*EMULATED, TESSERA_EMULATION_ARCH="75"))

    @unittest.skipIf(pathlib.Path("/dev/nvidiactl").exists(), "this machine has GPUs")
    def test_a_machine_without_a_gpu(self):
        said = self.refusal("--backend", "cuda")
        self.assertRegex(said, "this machine has no NVIDIA driver|built without GPU kernels")
        done = run_tessera("bench", NANO, "--backend", "auto", "--help")
        with Server("--backend", "auto") as server:
            self.assertIn("backend auto: cpu, for ", server.output())
            self.assertIn(said.split(": ", 1)[1], server.output())
        self.assertEqual(done.returncode, 0)

    def test_different_models_in_a_group(self):
        said = self.refusal(*TWO, TESSERA_EMULATION_NAMES="NVIDIA H100,NVIDIA A100")
        self.assertRegex(said, "rank 1 of group .* has NCCL .* on NVIDIA A100, "
                               "but rank 0 has NCCL .* on NVIDIA H100")

    def test_nccl(self):
        self.assertIn("several GPUs need NCCL 2.18.1 or newer, but it cannot be loaded",
                      self.refusal(*TWO, TESSERA_EMULATION_NCCL="/nowhere/libnccl.so.2"))
        self.assertIn("is version 2.17.1; install",
                      self.refusal(*TWO, TESSERA_EMULATION_NCCL=os.environ["TESSERA_OLD_NCCL"]))

    def test_cublas(self):
        self.assertIn("--gemm cublas is for GPUs; the cpu backend has products of its own only",
                      self.refusal("--gemm", "cublas"))
        self.assertIn("needs cuBLASLt 12 or newer, but there is no /nowhere/libcublasLt.so",
                      self.refusal(*EMULATED, "--gemm", "cublas",
                                   TESSERA_EMULATION_CUBLAS="/nowhere/libcublasLt.so"))
        with mock.patch.dict(os.environ, CHEAP):
            with Server(*EMULATED, "--gemm", "cublas", "--max-num-batched-tokens", 8) as server:
                request = pb.GenerateRequest(text="Hi")
                request.stopping.max_tokens = 2
                server.stub.Generate(request, timeout=120)
                self.assertIn(
                    'tessera_gemm_info{batch_invariant="false",gemm="cublas"}', server.metrics())
                self.assertIn("bits may depend on what is served beside it", server.output())

    def test_memory(self):
        said = self.refusal(*EMULATED, TESSERA_EMULATION_MEMORY=str(8 * MIB))
        self.assertRegex(said, "weights of a rank need at least [0-9]+ bytes, GPU 0 .* has [0-9]+ "
                               "of 8388608 bytes free: --tensor-parallel-size 2 would fit")
        said = self.refusal(*EMULATED, "--gpu-memory-utilization", 0.9, "--max-model-len", 4096,
                            "--max-num-batched-tokens", 4, "--max-num-seqs", 2,
                            TESSERA_EMULATION_MEMORY=str(24 * MIB))
        self.assertRegex(said, "one sequence of 4096 tokens needs [0-9]+ bytes: --max-model-len "
                               "[0-9]+ would fit; or raise --gpu-memory-utilization")

    @staticmethod
    def request(max_tokens):
        """A drawn answer of just so many tokens."""
        request = pb.GenerateRequest()
        request.token_ids.ids.extend([5, 6, 7])
        request.sampling.temperature = 0.9
        request.sampling.seed = 11
        request.stopping.max_tokens = max_tokens
        request.stopping.ignore_eos = True
        return request

    @staticmethod
    def answer(server):
        choices, _ = collect(server.stub.StreamGenerate(GpuFaultsTest.request(TOKENS), timeout=120))
        return list(choices[0].token_ids)

    def test_a_gpu_that_vanishes(self):
        """In the middle of a stream, of a group of two: the server ends, and says which GPU. Started
        again, it gives the answers of one that nothing happened to."""
        with tempfile.TemporaryDirectory() as folder:
            lost = pathlib.Path(folder) / "lost"
            variables = {**CHEAP, "TESSERA_EMULATION_VANISH": f"1:{lost}"}
            with mock.patch.dict(os.environ, variables):
                flags = (*TWO, "--max-num-batched-tokens", 8, "--step-timeout", STEP_TIMEOUT)
                with Server(*flags, expect_exit=1) as server:
                    undisturbed = self.answer(server)
                    self.assertEqual(len(undisturbed), TOKENS)
                    stream = server.stub.StreamGenerate(self.request(1000), timeout=120)
                    next(stream)
                    lost.touch()
                    since = time.monotonic()
                    error = read_until_unavailable(stream)
                    self.assertIn("GPU 1", error.details())
                    self.assertEqual(server.process.wait(STEP_TIMEOUT + 10), 1)
                    self.assertLess(time.monotonic() - since, STEP_TIMEOUT + 10)
                    self.assertIn("the GPU is lost (Xid 79)", server.output())
                lost.unlink()  # it has been replaced
                with Server(*flags) as server:
                    self.assertEqual(self.answer(server), undisturbed)


if __name__ == "__main__":
    unittest.main()
