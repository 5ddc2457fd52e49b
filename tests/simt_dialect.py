#!/usr/bin/env python3
"""Holds kernel sources (*.cu) to the dialect of kernels/cuda/simt, which both nvcc and the emulator
take, and which the emulator can check.

  tests/simt_dialect.py              checks the sources; exits 1 and names every place
  tests/simt_dialect.py --self-test  checks the check
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "tests")

# What reads as no code: comments and literals; includes are looked at before.
NOISE = re.compile(r"""//[^\n]* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*" """, re.S | re.X)
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.M)

# (what is forbidden, why). Each is searched in the code without comments and literals.
RULES = (
    (r"\basm\b", "assembly belongs to simt/ptx.h: the emulator cannot execute it"),
    (r"\b__shared__\b", "shared memory is one struct, through SharedMemory<T>(): the emulator checks its bounds"),
    (r"\b__(?:global|device|host|launch_bounds|constant|managed|grid_constant)__\b",
     "the words are SIMT_KERNEL, SIMT_DEVICE, SIMT_HOST_DEVICE, SIMT_GRID_CONSTANT"),
    (r"<<<", "kernels are launched by SIMT_LAUNCH"),
    (r"\bcuda(?:Launch|Func)\w*\s*\(", "kernels are launched by SIMT_LAUNCH"),
    (r"\b__builtin_\w+|\bstd::(?!array\b|is_same_v\b|conditional_t\b|numeric_limits\b)",
     "only words of the dialect, and types: nvcc and the emulator's compiler must see the same"),
    (r"\b(?:f?abs|sqrt|rsqrt|exp|exp2|exp10|log|log2|log1p|pow|sin|cos|tanh|fma|floor|ceil|rint|round"
     r"|fmin|fmax|erf)f?\s*\(", "mathematics through the wrappers of simt/simt.h (Exp, Log, Fma, ...)"),
    (r"\b__(?:expf|logf|sinf|cosf|fdividef|powf|fmaf_\w+|fsqrt_\w+|frcp_\w+)\b",
     "mathematics through the wrappers of simt/simt.h (Exp, Log, Fma, ...)"),
    (r"\batomic(?:Add|Max|Min|Or|And|CAS|Exch|Sub|Xor)\w*\s*\(",
     "atomics through simt/ptx.h, which says their order and scope"),
    (r"\bmem(?:cpy|set|move)\s*\(", "assignments or Load16/Store16: clang's calls of these are not seen"),
    (r"\b__activemask\b", "the lanes that take part are known where a warp operation stands"),
    (r"\bgoto\b|\bvolatile\b", "neither has a place in a kernel"),
    (r"\*\s*reinterpret_cast\s*<\s*(?:const\s+)?(?:u?int4|u?int2|float4|float2)\s*\*",
     "16 and 8 bytes through Load16, Store16, Load8, Store8, which check the alignment"),
)
RULES = tuple((re.compile(pattern), why) for pattern, why in RULES)


def may_include(path, bracket, header):
    if bracket == "<":
        return False
    if header.startswith("kernels/cuda/simt/"):
        return True
    # The group's own headers.
    return pathlib.PurePath(header).parent == pathlib.PurePath(path).parent or (
        path.startswith("tests/") and header.startswith(("tests/kernels/cuda/", "kernels/cuda/kernels/")))


def blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def findings(path, text):
    for match in INCLUDE.finditer(text):
        if not may_include(path, match[1], match[2]):
            yield text.count("\n", 0, match.start(2)) + 1, f"includes {match[2]}: only the dialect and its group's header"
    code = NOISE.sub(blank, text)
    for pattern, why in RULES:
        for match in pattern.finditer(code):
            yield code.count("\n", 0, match.start()) + 1, f"{match.group().strip()}: {why}"


def self_test():
    def found(code, path="kernels/cuda/kernels/some.cu"):
        return [why for _, why in findings(path, code)]

    assert not found('#include "kernels/cuda/kernels/some.h"\n#include "kernels/cuda/simt/ptx.h"\n'
                     "// asm __shared__ std::exp(\nconst char* k = \"asm\";\n"
                     "float F(float x) { return Exp(x) + simt::Log(x) + ptx::Exp2(x); }\n")
    for bad in ("#include <cuda_fp16.h>", "#include <cmath>", '#include "kernels/ops.h"',
                "asm volatile(\"bar.sync 0;\");", "__shared__ float x[3];", "__global__ void K() {}",
                "K<<<1, 32>>>();", "cudaLaunchKernelEx(&config, K);", "std::min(a, b);", "std::vector<int> v;", "expf(x);",
                "sqrt(x);", "__builtin_expf(x);", "__expf(x);", "atomicAdd(p, 1);", "memcpy(a, b, 4);",
                "__activemask();", "uint4 v = *reinterpret_cast<const uint4*>(p);", "volatile int x;"):
        assert found(bad + "\n"), bad
    assert found('#include "tests/kernels/cuda/fuzz.h"\n'), "a kernel that includes a test"
    assert not found('#include "tests/kernels/cuda/fuzz.h"\n', "tests/kernels/cuda/fuzz.cu")
    print("dialect of kernels: the check finds what it should")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    count = bad = 0
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.cu")):
            count += 1
            path = file.relative_to(ROOT).as_posix()
            for line, why in findings(path, file.read_text()):
                print(f"{path}:{line}: {why}", file=sys.stderr)
                bad += 1
    print(f"dialect of kernels: {count} files, {bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
