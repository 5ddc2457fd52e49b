#!/usr/bin/env python3
"""Enforces the dependency direction of docs/architecture.md on #include lines.

proto <- server -> engine -> parallel -> kernels; only server/ and parallel/cluster/ may see
generated protocol code and gRPC, and some headers are for named files only. Exits 1 and prints every line that breaks the rule.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')

# Folder prefix -> prefixes of our own headers it may include. The longest matching prefix wins.
ALLOWED = {
    "kernels/core/": ["kernels/core/"],
    "kernels/": ["kernels/"],
    "parallel/": ["parallel/", "kernels/core/"],
    "engine/": ["engine/", "parallel/", "kernels/"],
    "server/": ["server/", "engine/", "proto/", "parallel/", "kernels/core/", "kernels/ops.h"],
}
# Headers that only these files may include.
RESTRICTED = {
    # Host code that touches device memory: devices offer it, host transports use it.
    "kernels/core/host_queue.h": (
        "kernels/core/host_device.h",
        "kernels/core/host_queue.h",
        "kernels/queued/queued_device.h",
        "parallel/host_communicator.h",
    ),
}
WIRE = re.compile(r"^(grpc|grpcpp|google/protobuf|proto/)|\.pb\.h$")
WIRE_ALLOWED = ("server/", "parallel/cluster/")
OURS = ("kernels/", "parallel/", "engine/", "server/", "proto/", "tests/")


def rule_for(path):
    return max((p for p in ALLOWED if path.startswith(p)), key=len, default=None)


def violations(path, text):
    prefix = rule_for(path)
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(1)
        if path not in RESTRICTED.get(header, (path,)):
            yield f"{path}:{number}: {header}: only for {', '.join(RESTRICTED[header])}"
        if WIRE.search(header) and not path.startswith(WIRE_ALLOWED):
            yield f"{path}:{number}: {header}: protocol code belongs to {' and '.join(WIRE_ALLOWED)}"
        elif WIRE.search(header):
            continue
        elif header.startswith(OURS) and not header.startswith(tuple(ALLOWED[prefix])):
            yield f"{path}:{number}: {header}: {prefix} may include only {', '.join(ALLOWED[prefix])}"


def main():
    found = []
    count = 0
    for folder in ("kernels", "parallel", "engine", "server"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".h", ".cc", ".cu", ".cuh"):
                count += 1
                path = file.relative_to(ROOT).as_posix()
                found.extend(violations(path, file.read_text()))
    print("\n".join(found), file=sys.stderr) if found else None
    print(f"include direction: {count} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
