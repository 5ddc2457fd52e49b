#!/usr/bin/env python3
"""Runs clang-tidy on every source file outside of tests/, and fails on any finding.

    tests/tidy.py BUILD [FILE...]

BUILD is a folder with compile commands of a clang build and the generated sources. Most of the time
goes into the headers of libraries, so files of one room are read together where they can be: as one
translation unit, or one by one if their names clash. What was clean is not read again until it, a
header of it, .clang-tidy or clang-tidy itself changes: the verdicts are kept in
~/.cache/tessera-tidy. Environment: JOBS (default: all CPUs).
"""
import collections
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
FILES_TOGETHER = 8
NOISE = re.compile(r"^(\d+ (warnings?|errors?).* generated|Suppressed \d+ warnings|Use -header-filter)")


class Unit:
    """Source files with the same flags, and one file that includes them all."""

    def __init__(self, build, flags, sources):
        self.flags, self.sources = flags, sources
        if len(sources) == 1:
            self.file = str(ROOT / sources[0])
            return
        lines = "".join(f'#include "{ROOT / source}"\n' for source in sources)
        name = hashlib.sha256("\0".join([*flags, *sources]).encode()).hexdigest()[:16]
        self.file = str(ROOT / build / "tidy-units" / f"{name}.cc")
        pathlib.Path(self.file).parent.mkdir(exist_ok=True)
        pathlib.Path(self.file).write_text(lines)

    def split(self, build):
        return [Unit(build, self.flags, [source]) for source in self.sources]


def verdicts():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/tmp", ".cache")
    folder = pathlib.Path(home) / "tessera-tidy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def flags_of(command):
    """The compiler's arguments without input, outputs and launcher."""
    arguments = shlex.split(command["command"])
    for flag in ("-o", "-MF", "-MT", "-c"):
        if flag in arguments:
            at = arguments.index(flag)
            del arguments[at:at + 2]
    return tuple(a for a in arguments[1:] if a != "-MD")


def units(build, names):
    groups = collections.defaultdict(list)
    for command in json.loads((ROOT / build / "compile_commands.json").read_text()):
        name = os.path.relpath(command["file"], ROOT)
        if name.startswith(ROOMS) and (not names or name in names):
            groups[os.path.dirname(name), flags_of(command)].append(name)
    for (_, flags), sources in groups.items():
        for at in range(0, len(sources), FILES_TOGETHER):
            yield Unit(build, flags, sources[at:at + FILES_TOGETHER])


def run_clang_tidy(unit):
    """None if it is clean, else what clang-tidy says."""
    arguments = ["clang-tidy", "--quiet"]
    if len(unit.sources) > 1:
        arguments.append("--checks=-bugprone-suspicious-include")  # our own file that includes .cc
    done = subprocess.run([*arguments, unit.file, "--", *unit.flags], cwd=ROOT, capture_output=True,
                          text=True)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if not NOISE.match(line)]
    return "\n".join([done.stdout.rstrip(), *errors])


def check(build, unit, salt, folder):
    """What clang-tidy says, empty if the unit is clean; and how many files were known to be."""
    text = subprocess.run(["clang++", *unit.flags, "-E", "-P", "-C", unit.file], capture_output=True)
    verdict = folder / hashlib.sha256(salt + text.stdout).hexdigest()
    if text.returncode == 0 and verdict.exists():
        return "", len(unit.sources)
    report = run_clang_tidy(unit)
    if report and len(unit.sources) > 1 and "clang-diagnostic-error" in report:
        parts = [check(build, part, salt, folder) for part in unit.split(build)]
        return "\n".join(r for r, _ in parts if r), sum(known for _, known in parts)
    if report is None and text.returncode == 0:
        verdict.touch()
    return report or "", 0


def main(build, names):
    work = list(units(build, names))
    total = sum(len(unit.sources) for unit in work)
    if total < max(1, len(names)):
        sys.exit(f"tests/tidy.py: no compile commands for {names or ROOMS} in {build}")
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    salt = version + (ROOT / ".clang-tidy").read_bytes()
    folder = verdicts()
    known, dirty = 0, False
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS") or os.cpu_count())) as pool:
        runs = [pool.submit(check, build, unit, salt, folder) for unit in work]
        for done in concurrent.futures.as_completed(runs):
            report, files_known = done.result()
            known += files_known
            dirty |= report != ""
            if report:
                print(report, flush=True)
    print(f"clang-tidy: {total} files, {known} of them unchanged since they were clean; "
          f"{'findings above' if dirty else 'clean'}")
    return 1 if dirty else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
