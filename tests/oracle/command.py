"""Runs the tessera binary for the oracles."""
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = os.environ.get("TESSERA_BIN", str(ROOT / "build/cpu-release/tessera"))
REFERENCE = ROOT / "tests/data/reference"


def run(*arguments, stdin=""):
    done = subprocess.run([BIN, *map(str, arguments)], input=stdin.encode(), capture_output=True,
                          timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"tessera {' '.join(map(str, arguments))}: {done.stderr.decode().strip()}")
    return done.stdout.decode()  # bytes: text mode would change \r\n


def run_json(*arguments):
    return json.loads(run(*arguments, "--json"))
