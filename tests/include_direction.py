#!/usr/bin/env python3
"""Enforces the dependency direction of docs/architecture.md on #include lines.

proto <- server -> engine -> parallel -> kernels; only server/ and parallel/cluster/ may see
generated protocol code and gRPC, and some headers are for named files only. Inside each of these the
rooms have an order of their own, which ROOMS lists. Exits 1 and prints every line that breaks a
rule, and every cycle that ROOMS would allow.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')

# Top folder -> prefixes of our own headers it may include. The longest matching prefix wins.
ALLOWED = {
    "kernels/core/": ["kernels/core/"],
    "kernels/": ["kernels/"],
    "parallel/": ["parallel/", "kernels/core/"],
    # Between GPUs: works on their streams.
    "parallel/nccl/": ["parallel/", "kernels/core/", "kernels/cuda/"],
    "engine/": ["engine/", "parallel/", "kernels/"],
    "server/": ["server/", "engine/", "proto/", "parallel/", "kernels/core/", "kernels/ops.h"],
}
# Headers that only these files may include.
RESTRICTED = {
    # Host code that touches device memory: devices offer it, host transports use it.
    "kernels/core/host_queue.h": (
        "kernels/core/host_device.h",
        "kernels/core/host_queue.h",
        "kernels/cuda/emulated_device.h",
        "kernels/queued/queued_device.h",
        "parallel/host_communicator.h",
    ),
}
WIRE = re.compile(r"^(grpc|grpcpp|google/protobuf|proto/)|\.pb\.h$")
WIRE_ALLOWED = ("server/", "parallel/cluster/")
OURS = ("kernels/", "parallel/", "engine/", "server/", "proto/", "tests/")

# Room -> the rooms of the same top folder that it may include. A room is a folder without its
# subfolders, or one file that is above or below the rest of its folder. Leaf headers are files that
# the folders beside them may include although the other files of their folder use those.
ROOMS = {
    "kernels/core": [],
    "kernels/ops.h": ["kernels/core"],
    "kernels/op_checks.h": ["kernels/core", "kernels/ops.h"],
    "kernels/expert_table.h": ["kernels/core", "kernels/ops.h"],
    "kernels/sampling/isa": ["kernels/core"],
    "kernels/sampling": ["kernels/core", "kernels/ops.h", "kernels/sampling/isa"],
    "kernels/cpu/isa": ["kernels/core"],
    "kernels/cpu": ["kernels/core", "kernels/ops.h", "kernels/op_checks.h",
                    "kernels/expert_table.h", "kernels/cpu/isa",
                    "kernels/sampling"],
    "kernels/ref": ["kernels/core", "kernels/ops.h", "kernels/op_checks.h", "kernels/expert_table.h"],
    "kernels/queued": ["kernels/core", "kernels/ops.h", "kernels/op_checks.h", "kernels/expert_table.h",
                       "kernels/ref"],
    # The dialect of GPU kernels, what it means on a CPU, and kernels, which see nothing else.
    "kernels/cuda/emulation/device_words.h": [],
    "kernels/cuda/simt": ["kernels/cuda/emulation/device_words.h"],
    "kernels/cuda/kernels": ["kernels/core", "kernels/cuda/simt"],
    "kernels/cuda/emulation": ["kernels/core", "kernels/cuda/emulation/device_words.h",
                               "kernels/cuda/simt"],
    "kernels/cuda/fake": ["kernels/core", "kernels/cuda/emulation", "kernels/cuda/simt"],
    # The same source for both kinds of GPUs; its factories are all that others see.
    "kernels/cuda": ["kernels/core", "kernels/ops.h", "kernels/op_checks.h",
                     "kernels/cuda/emulation", "kernels/cuda/kernels", "kernels/cuda/simt"],
    # Chooses a backend.
    "kernels": ["kernels/core", "kernels/ops.h", "kernels/op_checks.h", "kernels/cpu",
                "kernels/cuda", "kernels/queued", "kernels/ref"],

    "parallel": [],
    "parallel/carrier": [],
    "parallel/inproc": ["parallel", "parallel/carrier"],
    "parallel/gloo": ["parallel"],
    "parallel/nccl": ["parallel", "parallel/nccl/fake", "parallel/nccl/nccl_library.h"],
    "parallel/nccl/nccl_library.h": [],
    "parallel/nccl/fake": ["parallel/nccl/nccl_library.h"],
    "parallel/cluster": ["parallel"],
    "parallel/experts": ["parallel"],

    "engine/load_progress.h": [],
    "engine/monotonic_clock.h": [],
    "engine/options.h": [],
    "engine/types.h": [],
    "engine/watchdog.h": ["engine/monotonic_clock.h"],
    "engine/kv": [],
    "engine/files": [],
    "engine/checkpoint": ["engine/files"],
    "engine/quantization": ["engine/checkpoint", "engine/files", "engine/text/pcre2_regex.h"],
    "engine/model": ["engine/checkpoint", "engine/files", "engine/load_progress.h",
                     "engine/quantization"],
    "engine/planning": ["engine/files", "engine/model", "engine/quantization"],
    "engine/grammar": ["engine/files", "engine/text/utf8.h", "engine/types.h"],
    "engine/scheduler": ["engine/grammar", "engine/kv", "engine/options.h", "engine/types.h"],
    "engine/executor": ["engine/checkpoint", "engine/model", "engine/scheduler",
                        "engine/load_progress.h", "engine/options.h", "engine/types.h",
                        "engine/watchdog.h"],
    "engine/text/pcre2_regex.h": [],
    "engine/text/utf8.h": [],
    "engine/text/jinja": ["engine/text/utf8.h"],
    "engine/text": ["engine/files", "engine/text/jinja", "engine/text/pcre2_regex.h",
                    "engine/text/utf8.h", "engine/types.h"],
    "engine/output": ["engine/scheduler", "engine/text", "engine/text/jinja", "engine/types.h"],
    # The engine thread and what it owns.
    "engine": ["engine/grammar", "engine/model", "engine/scheduler", "engine/executor", "engine/output",
               "engine/text", "engine/monotonic_clock.h", "engine/options.h", "engine/types.h",
               "engine/watchdog.h"],

    "server/version.h": [],
    "server/metrics": ["server/version.h"],
    "server/json_text.h": [],
    "server/log_writer.h": [],
    "server/logging.h": [],
    "server": ["server/access", "server/did_you_mean.h", "server/json_text.h", "server/log_writer.h", "server/logging.h", "server/metrics", "server/version.h"],
    "server/did_you_mean.h": [],
    "server/access": ["server/did_you_mean.h", "server/logging.h"],
    "server/http": ["server/access", "server/json_text.h", "server/logging.h"],
    "server/http/page": ["server/http"],
    "server/http/openai": ["server", "server/http", "server/http/page", "server/json_text.h",
                           "server/version.h"],
    "server/grpc": ["server", "server/access", "server/logging.h"],
    "server/batch": ["server", "server/http", "server/http/openai", "server/json_text.h"],
    "server/commands": ["server", "server/access", "server/batch", "server/grpc", "server/http", "server/http/openai", "server/json_text.h",
                        "server/logging.h", "server/metrics", "server/version.h"],
    "server/main.cc": ["server", "server/did_you_mean.h", "server/commands"],
}


def rule_for(path):
    return max((p for p in ALLOWED if path.startswith(p)), key=len, default=None)


def room_of(path):
    return path if path in ROOMS else path.rpartition("/")[0]


def crosses(path, header):
    """Why a file may not include a header of its own top folder; None when it may."""
    room, other = room_of(path), room_of(header)
    if room.split("/")[0] != other.split("/")[0] or room == other:
        return None
    if room not in ROOMS:
        return f"{room}/ is not among the ROOMS of tests/include_direction.py"
    if other in ROOMS[room]:
        return None
    return f"{room} may include only {', '.join(ROOMS[room]) or 'itself'}, not {other}"


def violations(path, text):
    prefix = rule_for(path)
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(1)
        if path not in RESTRICTED.get(header, (path,)):
            yield f"{path}:{number}: {header}: only for {', '.join(RESTRICTED[header])}"
        if WIRE.search(header):
            if not path.startswith(WIRE_ALLOWED):
                yield (f"{path}:{number}: {header}: protocol code belongs to "
                       f"{' and '.join(WIRE_ALLOWED)}")
            continue
        if not header.startswith(OURS):
            continue
        if not header.startswith(tuple(ALLOWED[prefix])):
            yield f"{path}:{number}: {header}: {prefix} may include only {', '.join(ALLOWED[prefix])}"
        elif reason := crosses(path, header):
            yield f"{path}:{number}: {header}: {reason}"


def cycles():
    """Rooms of the table that reach themselves."""
    for start in ROOMS:
        seen, todo = set(), list(ROOMS[start])
        while todo:
            room = todo.pop()
            if room not in seen:
                seen.add(room)
                todo.extend(ROOMS[room])
        if start in seen:
            yield f"tests/include_direction.py: ROOMS lead from {start} back to {start}"


def main():
    found = list(cycles())
    count = 0
    for folder in ("kernels", "parallel", "engine", "server"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".h", ".cc", ".inc", ".cu", ".cuh"):
                count += 1
                path = file.relative_to(ROOT).as_posix()
                found.extend(violations(path, file.read_text()))
    print("\n".join(found), file=sys.stderr) if found else None
    print(f"include direction: {count} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
