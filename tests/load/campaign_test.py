#!/usr/bin/env python3
"""The campaigns in continuous integration.

  campaign_test.py campaigns               all at small sizes
  campaign_test.py controls NAME=PROGRAM   servers with a fault: the campaign below must find each
"""
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CAMPAIGN, SOAK = HERE / "campaign.py", HERE / "soak.py"
# Requests or cycles; doors, readers and starvation are left to the long run.
SIZES = {"streams": 300, "cancels": 600, "deadlines": 200, "overload": 300, "slow-readers": 8,
         "connections": 100, "thrash": 32, "drain": 2, "soak": 1}
# Which campaign finds which fault.
FINDERS = {"lost_place": ("streams", 50), "leaking": ("streams", 200), "dropped_token": ("streams", 100),
           "stuck_readiness": ("drain", 1)}


def run(name, count, program=None):
    """(exit code, output)."""
    environment = dict(os.environ, **({"TESSERA_BIN": program} if program else {}))
    command = [CAMPAIGN, "--only", name, "--count", str(count)]
    if name == "soak":  # one round: too short for what grows, long enough for the books
        command = [SOAK, "--minutes", "0"]
    done = subprocess.run([sys.executable, *command], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def campaigns():
    failed = False
    for name, count in SIZES.items():
        code, output = run(name, count)
        print(output, end="", flush=True)
        failed = failed or code != 0
    return failed


def controls(programs):
    failed = False
    for name, program in programs.items():
        code, output = run(*FINDERS[name], program)
        found = code == 1 and "PROBLEM" in output
        print(f"{name}: {'found' if found else 'NOT FOUND'}\n{output}", flush=True)
        failed = failed or not found
    return failed or programs.keys() != FINDERS.keys()


if __name__ == "__main__":
    if sys.argv[1] == "campaigns":
        sys.exit(campaigns())
    sys.exit(controls(dict(argument.split("=", 1) for argument in sys.argv[2:])))
