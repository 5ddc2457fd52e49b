#!/usr/bin/env python3
"""What the machine code of the CUDA kernels uses, against the table budgets.txt beside this file.

  budgets.py --nvcc NVCC --cuobjdump CUOBJDUMP [--update] OBJECT...

The test cuda_budgets calls it; the build target update_cuda_budgets writes the table anew. For
every kernel and architecture: registers per thread, static shared memory, and which of the
instructions in INSTRUCTIONS occur. A difference is an error, so that a change shows in review. A
stack, spilled registers or local memory are an error whatever the table says. With another nvcc
than the one the table was made with, registers and shared memory are not compared: the launch
bounds of a kernel still limit them.
Exit code 77: the tools are missing.
"""
import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys

TABLE = pathlib.Path(__file__).with_name("budgets.txt")
SKIPPED = 77
# Tensor cores, asynchronous copies, and what feeds them.
INSTRUCTIONS = ("HGMMA", "HMMA", "IMMA", "QMMA", "UTMALDG", "UTMALDG.MULTICAST", "UTMASTG",
                "LDGSTS", "LDSM", "SYNCS", "UCGABAR_ARV", "ACQBULK", "USETMAXREG")
LOCAL_MEMORY = ("LDL", "STL")
HEADER = """# Machine code of the CUDA kernels: the build target update_cuda_budgets writes this.
# File, kernel, architecture, registers per thread, bytes of static shared memory, instructions.
"""

Usage = collections.namedtuple("Usage", "registers shared instructions")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def nvcc_version(nvcc):
    return re.search(r"V(\d+\.\d+\.\d+)", run(nvcc, "--version")).group(1)


def short_name(demangled):
    """'GemmKernel<64, 128>' of the name of a function with its namespaces and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|\b\w+::", "", demangled)
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"\(([a-z ]+)\)(?=[\w-])", "", name)  # casts of template arguments
    depth = 0
    for at, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return name[:at].replace(" ", "")
    return name.replace(" ", "")


def demangle(names):
    lines = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True,
                           text=True).stdout.splitlines()
    return {name: short_name(line) for name, line in zip(names, lines)}


def resources(text):
    """{(architecture, mangled name): {"REG": 40, ...}} of `cuobjdump -res-usage`."""
    found = {}
    arch = name = None
    for line in text.splitlines():
        if match := re.match(r"\s*arch = (\w+)", line):
            arch = match.group(1)
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match.group(1)
        elif name and "REG:" in line:
            found[arch, name] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            name = None
    return found


def opcodes(text):
    """{(architecture, mangled name): set of opcodes} of `cuobjdump -sass`."""
    found = collections.defaultdict(set)
    arch = name = None
    for line in text.splitlines():
        if match := re.match(r"\s*code for (\w+)", line):
            arch = match.group(1)
        elif match := re.match(r"\s*Function : (\S+)", line):
            name = match.group(1)
        elif match := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(\S*)",
                               line):
            multicast = ".MULTICAST" if ".MULTICAST" in match.group(2) else ""
            found[arch, name].add(match.group(1) + multicast)
    return found


def measure(cuobjdump, objects):
    """(errors, {(file, kernel, architecture): Usage})."""
    errors, table = [], {}
    for path in objects:
        file = pathlib.Path(path).name.removesuffix(".o")
        used = resources(run(cuobjdump, "-res-usage", path))
        code = opcodes(run(cuobjdump, "-sass", path))
        names = demangle(sorted({name for _, name in used}))
        for (arch, mangled), numbers in sorted(used.items()):
            key = (file, names[mangled], arch)
            if key in table:
                errors.append(f"{' '.join(key)}: two kernels have this name")
            local = [word for word in LOCAL_MEMORY if word in code[arch, mangled]]
            if numbers["STACK"] or numbers["LOCAL"] or local:
                errors.append(f"{' '.join(key)}: a stack of {numbers['STACK']} bytes, local memory "
                              f"of {numbers['LOCAL']} bytes, instructions {local}")
            present = [word for word in INSTRUCTIONS if word in code[arch, mangled]]
            table[key] = Usage(numbers["REG"], numbers["SHARED"], ",".join(present) or "-")
        if not used:
            errors.append(f"{file}: no kernels found")
    return errors, table


def read_table():
    version, table = None, {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("nvcc "):
            version = line.split()[1]
        elif line and not line.startswith("#"):
            file, kernel, arch, registers, shared, instructions = line.split()
            table[file, kernel, arch] = Usage(int(registers), int(shared), instructions)
    return version, table


def write_table(version, table):
    lines = [f"{' '.join(key)} {' '.join(map(str, table[key]))}" for key in sorted(table)]
    TABLE.write_text(HEADER + f"nvcc {version}\n" + "\n".join(lines) + "\n")


def differences(expected, actual, same_nvcc):
    for key in sorted(expected.keys() | actual.keys()):
        name = " ".join(key)
        if key not in actual:
            yield f"{name}: in the table, but not in the objects"
        elif key not in expected:
            yield f"{name}: not in the table; it has {actual[key]}"
        elif same_nvcc and expected[key] != actual[key]:
            yield f"{name}: {expected[key]} in the table, now {actual[key]}"
        elif expected[key].instructions != actual[key].instructions:
            yield f"{name}: {expected[key].instructions} in the table, now {actual[key].instructions}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--cuobjdump", required=True)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("objects", nargs="+")
    args = parser.parse_args()
    if not os.access(args.cuobjdump, os.X_OK):
        print("SKIPPED: no cuobjdump; deploy/install-cuda.sh brings it")
        return SKIPPED
    # cuobjdump looks for nvdisasm on the path.
    os.environ["PATH"] = f"{os.path.dirname(args.cuobjdump)}:{os.environ['PATH']}"
    version = nvcc_version(args.nvcc)
    errors, table = measure(args.cuobjdump, args.objects)
    if args.update:
        write_table(version, table)
    else:
        made_with, expected = read_table()
        if made_with != version:
            print(f"the table was made with nvcc {made_with}, this is {version}: registers may differ")
        errors += differences(expected, table, made_with == version)
    for error in errors:
        print(f"FAILED: {error}")
    if errors and not args.update:
        print("to accept what the table may say otherwise: build the target update_cuda_budgets")
    print(f"{len(table)} kernels by architecture, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
