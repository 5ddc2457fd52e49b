#!/usr/bin/env python3
"""The asm texts of kernels/cuda/simt/ptx.h as nvcc hands them to the assembler.

  ptx_test.py --nvcc NVCC [--update]

Compares them with ptx_golden.txt beside this file, so that a change of an instruction shows in
review next to the change of what the emulator does for it; the build target update_cuda_ptx writes
the file anew. Every function of ptx.h must have a case in ptx_all.cu, and every case must assemble
for every architecture of ASSEMBLED. Every function must also be in a self-test for GPUs.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
GOLDEN = HERE / "ptx_golden.txt"
SOURCE = HERE / "ptx_all.cu"
SHOWN = ("80", "90a")
ASSEMBLED = ("80", "86", "89", "90a", "100", "120")
# Loops over another function of ptx.h, or parts of the cases of WgmmaN8 to WgmmaPanelsN128.
INSIDE_OTHERS = {"MBarrierWait", "Wgmma", "WgmmaDescriptor", "WgmmaFence", "WgmmaCommit", "WgmmaWait",
                 "WgmmaFenceOperand", "WgmmaPanels", "WgmmaPanelsDescriptor"}
SELF_TESTS = ("instructions.cu", "memory_instructions.cu")
# What the self-tests leave to others.
NOT_SELF_TESTED = {
    "SharedAddress": "part of all instructions on shared memory",
    "WgmmaN8": "Wgmma", "WgmmaN16": "Wgmma", "WgmmaN32": "Wgmma", "WgmmaN64": "Wgmma", "WgmmaN128": "Wgmma",
    "WgmmaPanelsN64": "WgmmaPanels", "WgmmaPanelsN128": "WgmmaPanels",
    "MBarrierTryWait": "MBarrierWait",
    "FenceProxyAsync": "gemm_sm90.cu, under the operation tests",
    "GiveBackRegisters": "gemm_sm90.cu, under the operation tests",
    "TakeRegisters": "gemm_sm90.cu, under the operation tests",
    "TmaLoad3D": "attention_sm90.cu, under the operation tests",
}


def compile_cases(nvcc, *options):
    subprocess.run([nvcc, "-std=c++20", "-O3", "-fmad=false", f"-I{ROOT}", *options, str(SOURCE)],
                   check=True)


def renumbered(text):
    """Registers numbered as they first appear in the text."""
    names = {}
    return re.sub(r"%([a-z]+)\d+",
                  lambda match: names.setdefault(match.group(), f"%{match.group(1)}{len(names)}"),
                  " ".join(text.split()))


def asm_texts(ptx):
    """[(name of the case, its asm texts)]"""
    cases = []
    for entry in re.split(r"^(?:\.visible )?\.entry ", ptx, flags=re.MULTILINE)[1:]:
        name = re.match(r"\w*?\d+([A-Z]\w*?)Case", entry).group(1)
        texts = re.findall(r"// begin inline asm\n(.*?)// end inline asm", entry, re.DOTALL)
        texts = [renumbered(text) for text in texts]
        cases.append((name, [text for text in texts if text]))
    return cases


def shown(nvcc):
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for arch in SHOWN:
            out = pathlib.Path(folder) / "all.ptx"
            compile_cases(nvcc, "-ptx", f"-arch=compute_{arch}", "-o", str(out))
            for name, texts in sorted(asm_texts(out.read_text())):
                lines += [f"sm_{arch} {name}: {text}" for text in texts or ["(a built-in)"]]
    return lines


def assemble(nvcc):
    with tempfile.TemporaryDirectory() as folder:
        for arch in ASSEMBLED:
            compile_cases(nvcc, "-cubin", f"-arch=sm_{arch}", "-o", f"{folder}/all.cubin")


def functions():
    header = (ROOT / "kernels/cuda/simt/ptx.h").read_text()
    return set(re.findall(r"(?:SIMT_PTX|SIMT_DEVICE|__forceinline__)\s[\w ]*?[\s*](\w+)\(", header))


def functions_without_self_test():
    tested = set()
    for name in SELF_TESTS:
        tested |= set(re.findall(r"ptx::(\w+)", (HERE / name).read_text()))
    return sorted(functions() - tested - set(NOT_SELF_TESTED))


def functions_without_case():
    names = functions()
    cases = set(re.findall(r"SIMT_CASE\((\w+),", SOURCE.read_text()))
    return sorted(names - cases - INSIDE_OTHERS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    errors = [f"{name} of ptx.h has no case in ptx_all.cu" for name in functions_without_case()]
    errors += [f"{name} of ptx.h is in no self-test for GPUs ({', '.join(SELF_TESTS)})"
               for name in functions_without_self_test()]
    assemble(args.nvcc)
    lines = shown(args.nvcc)
    if args.update:
        GOLDEN.write_text("\n".join(lines) + "\n")
    else:
        expected = GOLDEN.read_text().splitlines()
        errors += [f"no longer there: {line}" for line in expected if line not in lines]
        errors += [f"not in ptx_golden.txt: {line}" for line in lines if line not in expected]
    for error in errors:
        print(f"FAILED: {error}")
    if errors:
        print("to accept a change of the texts: build the target update_cuda_ptx")
    print(f"{len(lines)} asm texts for {len(SHOWN)} architectures, assembled for {len(ASSEMBLED)}, "
          f"{len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
