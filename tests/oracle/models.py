#!/usr/bin/env python3
"""Random tiny checkpoints: tessera score and tessera generate against transformers."""
import argparse
import pathlib
import random
import shutil
import sys
import tempfile

import torch
import transformers

import checkpoints
from command import run_json

# For logits up to 10, which the reference checkpoints have; rounding grows with the logits.
LOGIT_TOLERANCE = 5e-5
# Closer calls than this are decided by rounding, on both sides.
TIE = 2e-4
BACKENDS = ("cpu", "ref", "queued")
PROMPT_LENGTHS = (1, 7, 45, 150)
NUM_GREEDY = 32


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def mean_nll(logits, ids):
    logprobs = torch.log_softmax(logits.double(), -1)
    picked = [-logprobs[i, token].item() for i, token in enumerate(ids[1:])]
    return sum(picked) / max(1, len(picked))


def margin(row):
    top = torch.topk(row, 2).values
    return (top[0] - top[1]).item()


class Totals:
    def __init__(self):
        self.failures = 0
        self.comparisons = 0
        self.worst_logit = 0.0
        # Of either: agreeing positions, positions, worst relative error of the nll.
        self.bf16 = {"tessera": [0, 0, 0.0], "transformers": [0, 0, 0.0]}

    def check(self, ok, what):
        self.comparisons += 1
        if not ok:
            self.failures += 1
            print(f"MISMATCH {what}")


def ids_text(ids):
    return ",".join(map(str, ids))


def compare_scores(folder, ids, expected, totals):
    for backend in BACKENDS:
        label = f"{folder.name} {backend} {len(ids)} tokens"
        got = run_json("score", folder, "--token-ids", ids_text(ids), "--dtype", "float32",
                       "--backend", backend)
        error = (torch.tensor(got["last_logits"]) - expected[-1]).abs().max().item()
        totals.worst_logit = max(totals.worst_logit, error)
        scale = max(1.0, expected[-1].abs().max().item() / 10)
        totals.check(error <= LOGIT_TOLERANCE * scale,
                     f"{label}: last logits differ by {error:.2e}")
        for position, token in enumerate(got["argmax"]):
            if token != expected[position].argmax().item() and margin(expected[position]) > TIE:
                totals.check(False, f"{label}: argmax at {position}")
        totals.check(len(got["argmax"]) == len(ids) and len(got["logprobs"]) == len(ids) - 1,
                     f"{label}: lengths of argmax and logprobs")
        if len(ids) > 1:
            totals.check(abs(got["nll"] - mean_nll(expected, ids)) < 1e-4, f"{label}: nll")


def compare_greedy(folder, model, ids, totals):
    outputs = [run_json("generate", folder, "--token-ids", ids_text(ids), "--max-tokens",
                        NUM_GREEDY, "--temperature", 0, "--repetition-penalty", 1, "--ignore-eos",
                        "--dtype", "float32", "--backend", backend)["token_ids"]
               for backend in BACKENDS]
    for backend, output in zip(BACKENDS, outputs):
        expected = logits_of(model, ids + output)[len(ids) - 1:-1]
        bad = [step for step, token in enumerate(output)
               if token != expected[step].argmax().item() and margin(expected[step]) > TIE]
        totals.check(not bad and len(output) == NUM_GREEDY,
                     f"{folder.name} {backend} {len(ids)} tokens: greedy differs at {bad[:1]}")


def compare_bfloat16(folder, half, ids, expected, totals):
    got = run_json("score", folder, "--token-ids", ids_text(ids), "--dtype", "bfloat16")
    theirs = logits_of(half, ids)
    exact = mean_nll(expected, ids)
    for name, argmax, nll in (("tessera", torch.tensor(got["argmax"]), got["nll"]),
                              ("transformers", theirs.argmax(-1), mean_nll(theirs, ids))):
        sums = totals.bf16[name]
        sums[0] += (argmax == expected.argmax(-1)).sum().item()
        sums[1] += len(ids)
        if len(ids) >= 45:
            sums[2] = max(sums[2], abs(nll - exact) / exact)


def load(folder, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager").eval()


def compare(folder, rng, totals):
    config = checkpoints.write(folder, rng)
    model, half = load(folder, torch.float32), load(folder, torch.bfloat16)
    for length in PROMPT_LENGTHS:
        ids = [rng.randrange(config["vocab_size"]) for _ in range(length)]
        expected = logits_of(model, ids)
        compare_scores(folder, ids, expected, totals)
        compare_bfloat16(folder, half, ids, expected, totals)
        if length in (7, 150):
            compare_greedy(folder, model, ids, totals)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for checkpoints that failed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    totals = Totals()
    for index in range(options.count):
        failures = totals.failures
        with tempfile.TemporaryDirectory() as root:
            folder = pathlib.Path(root) / f"seed{options.seed}-{index}"
            folder.mkdir()
            try:
                compare(folder, random.Random(f"{options.seed}/{index}"), totals)
            except RuntimeError as error:
                totals.check(False, f"{folder.name}: {error}")
            if totals.failures > failures and options.keep:
                shutil.copytree(folder, options.keep / folder.name, dirs_exist_ok=True)
    print(f"{options.count} checkpoints, {totals.comparisons} comparisons, "
          f"{totals.failures} mismatches; worst last logit error {totals.worst_logit:.2e}")
    for name, (agreeing, positions, nll_error) in totals.bf16.items():
        print(f"bfloat16 of {name}: argmax agreement {100 * agreeing / max(1, positions):.2f} %, "
              f"worst error of the nll {100 * nll_error:.2f} %")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
