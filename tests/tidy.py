#!/usr/bin/env python3
"""Runs clang-tidy on every source file outside of tests/, and fails on any finding.

    tests/tidy.py BUILD [FILE...]

BUILD is a folder with compile commands of a clang build and the generated sources. A file that was
clean is not read again until it, a header of it, .clang-tidy or clang-tidy itself changes: the
verdicts are kept in ~/.cache/tessera-tidy. Environment: JOBS (default: all CPUs).
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = ("kernels/", "parallel/", "engine/", "server/")
NOISE = re.compile(r"^(\d+ (warnings?|errors?).* generated|Suppressed \d+ warnings|Use -header-filter)")


def verdicts():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/tmp", ".cache")
    folder = pathlib.Path(home) / "tessera-tidy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def preprocessed(command):
    """What the compiler sees, comments included (NOLINT), as bytes; None if it does not compile."""
    arguments = shlex.split(command["command"])
    for flag in ("-o", "-MF", "-MT"):
        if flag in arguments:
            at = arguments.index(flag)
            del arguments[at:at + 2]
    arguments = [a for a in arguments if a not in ("-c", "-MD")] + ["-E", "-P", "-C"]
    done = subprocess.run(arguments, cwd=command["directory"], capture_output=True)
    return done.stdout if done.returncode == 0 else None


def check(build, command, salt, folder):
    """None if the file is clean, else what clang-tidy says; and whether that was known before."""
    text = preprocessed(command)
    verdict = text and folder / hashlib.sha256(salt + text).hexdigest()
    if verdict and verdict.exists():
        return None, True
    done = subprocess.run(["clang-tidy", "--quiet", "-p", build, command["file"]],
                          cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        if verdict:
            verdict.touch()
        return None, False
    errors = [line for line in done.stderr.splitlines() if not NOISE.match(line)]
    return "\n".join([done.stdout.rstrip(), *errors]), False


def main(build, names):
    commands = {}
    for command in json.loads((ROOT / build / "compile_commands.json").read_text()):
        name = os.path.relpath(command["file"], ROOT)
        if name.startswith(ROOMS) and (not names or name in names):
            commands[name] = command
    if not commands or len(commands) < len(names):
        sys.exit(f"tests/tidy.py: no compile commands for {names or ROOMS} in {build}")
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    salt = version + (ROOT / ".clang-tidy").read_bytes()
    folder = verdicts()
    known, dirty = 0, 0
    jobs = int(os.environ.get("JOBS") or os.cpu_count())
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(check, build, c, salt, folder): name for name, c in commands.items()}
        for done in concurrent.futures.as_completed(runs):
            report, was_known = done.result()
            known += was_known
            if report is not None:
                dirty += 1
                print(f"--- {runs[done]}\n{report}", flush=True)
    print(f"clang-tidy: {len(commands)} files, {known} known to be clean, {dirty} with findings")
    return 1 if dirty else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
