#!/usr/bin/env python3
"""A process of a group is killed or stopped at a random moment: the group ends, and a new one works.

--runs N kills (10), --seed S, --stops N SIGSTOPs (1). Prints the seed that repeats a failure.
"""
import argparse
import random
import signal
import sys
import time

from process_group import Group, Layout, run

LAYOUTS = [Layout(2, tp=2), Layout(4, tp=4), Layout(4, tp=1, dp=4), Layout(4, tp=2, dp=4, ep=True)]
START_TIMEOUT = 120
NOTICED = 2.0     # until the head says why, after a kill
ENDED = 5.0       # until every process has exited
FOREVER = 10**6   # steps


def wait_for_phase(group, rng):
    """Lets the group run up to a random moment; tells which."""
    assert group.head.wait_for("waiting for", START_TIMEOUT), group.report()
    if rng.random() < 0.3:
        # A worker that has not joined yet would wait for another head: that is no failure.
        for node in group.workers:
            assert node.wait_for("joined", START_TIMEOUT), group.report()
        time.sleep(rng.random() * 0.3)
        return "while loading"
    step = rng.randint(1, 60)
    assert group.head.wait_for(f"step {step}", START_TIMEOUT), group.report()
    return f"about step {step}"


def check_end(group, survivors, since):
    for node in survivors:
        code = node.exit_code(max(0.0, since + ENDED - time.monotonic()))
        assert code is not None, f"still running after {ENDED} s\n{group.report()}"
        assert code != 0, f"exit code 0 of a failed group\n{group.report()}"


def kill_once(rng):
    layout = rng.choice(LAYOUTS)
    with Group(layout, FOREVER) as group:
        victim = rng.choice(group.nodes())
        phase = wait_for_phase(group, rng)
        since = time.monotonic()
        victim.process.send_signal(signal.SIGKILL)
        if victim is not group.head:
            failed = group.head.wait_for("head failed", NOTICED)
            assert failed is not None, f"not noticed within {NOTICED} s\n{group.report()}"
            reason = next(l for l in group.head.output() if l.startswith("head failed"))
            assert "UNAVAILABLE" in reason and " is gone" in reason, reason
        check_end(group, [n for n in group.nodes() if n is not victim], since)
        who = "the head" if victim is group.head else "a worker"
        print(f"ok: {layout}: killed {who} {phase}; over after "
              f"{time.monotonic() - since:.2f} s", flush=True)


def stop_once(rng):
    limit = 3
    layout = rng.choice(LAYOUTS)
    with Group(layout, FOREVER, step_timeout=limit) as group:
        victim = rng.choice(group.workers)
        assert group.head.wait_for("step 5", START_TIMEOUT), group.report()
        since = time.monotonic()
        victim.process.send_signal(signal.SIGSTOP)
        failed = group.head.wait_for("head failed", limit + 3)
        assert failed is not None, f"the watchdog did not end the group\n{group.report()}"
        assert limit - 1 <= failed - since <= limit + 1.5, f"{failed - since:.2f} s\n{group.report()}"
        check_end(group, [n for n in group.nodes() if n is not victim], failed)
        victim.process.send_signal(signal.SIGCONT)
        check_end(group, [victim], time.monotonic())
        print(f"ok: {layout}: stopped a worker; the group ended after {failed - since:.2f} s",
              flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--stops", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    expected = run(Layout(1, tp=1), 20)
    for _ in range(arguments.runs):
        kill_once(rng)
    for _ in range(arguments.stops):
        stop_once(rng)
    # Nothing that was left behind keeps a new group from working.
    assert run(Layout(2, tp=2), 20) == expected
    print("ok: a new group works", flush=True)


if __name__ == "__main__":
    sys.exit(main())
