#!/usr/bin/env python3
"""One server under rounds of campaigns for as long as it takes to see what grows.

    tests/load/soak.py --minutes 120

Each round cancels, lets deadlines pass, streams and talks nonsense, and ends with the books and a
row of undisturbed calls. The report says how many requests there were, how fast memory grows (least
squares over the second half of the rounds: allocators have settled by then) and how far the p99 of
the undisturbed calls drifts between the first and the last third.
"""
import argparse
import asyncio
import json
import random
import statistics
import sys
import time

import campaign
from books import Books, Footprint
from harness import NANO, Server
from neighbours import percentile

SLOPE_LIMIT = 1.0  # MiB per hour
DRIFT_LIMIT = 0.05
CALM_CALLS = 60
# function, size, whether codes must be equal
ROUND = [(campaign.random_cancels, 400, False), (campaign.deadlines, 100, False),
         (campaign.streams, 200, True), (campaign.connections, 40, True)]


class Sample:
    """What one round leaves behind."""

    def __init__(self, server, books):
        times = []
        for _ in range(CALM_CALLS):
            begun = time.monotonic()
            books.answer()
            times.append(time.monotonic() - begun)
        self.p99 = percentile(times, 0.99)
        self.hours = time.monotonic() / 3600
        self.mib = Footprint(server.process.pid).rss_kib / 1024


def slope(points):
    """Least squares through (x, y); nothing without a span of x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def summary(samples):
    late = samples[len(samples) // 2:]
    third = max(1, len(samples) // 3)
    first = statistics.median(sample.p99 for sample in samples[:third])
    last = statistics.median(sample.p99 for sample in samples[-third:])
    return {"rounds": len(samples), "hours": samples[-1].hours - samples[0].hours,
            "resident_mib": samples[-1].mib,
            "mib_per_hour": slope([(sample.hours, sample.mib) for sample in late]),
            "p99_ms": last * 1e3, "p99_drift": last / first - 1}


def one_round(server, rng):
    """Requests and problems."""
    requests, problems = 0, []
    for function, count, exact in ROUND:
        books = Books(server)
        problems += asyncio.run(function(server, books, count, rng))
        requests += sum(books.seen.values())
        problems += books.check(exact)
    return requests, problems


def soak(minutes, seed):
    rng = random.Random(seed)
    samples, problems, requests = [], [], 0
    with Server("--dtype", "float32", "--kv-cache-memory", "48MiB", "--max-num-seqs", "128",
                model=NANO) as server:
        begun = time.monotonic()
        while not samples or time.monotonic() - begun < minutes * 60:
            more, found = one_round(server, rng)
            requests += more + CALM_CALLS
            problems += found
            samples.append(Sample(server, Books(server)))
            print(f"{time.monotonic() - begun:6.0f} s: {requests:8} requests, "
                  f"{samples[-1].mib:6.1f} MiB, p99 of calm calls {samples[-1].p99 * 1e3:5.1f} ms, "
                  f"{len(problems)} problems", flush=True)
    return {"requests": requests, **summary(samples), "problems": sorted(set(problems))}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="file for the report")
    options = parser.parse_args()
    report = soak(options.minutes, options.seed)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    print(f"{report['requests']} requests in {report['hours'] * 60:.0f} min; memory grows by "
          f"{report['mib_per_hour']:.2f} MiB/h (limit {SLOPE_LIMIT}); p99 of calm calls drifts by "
          f"{report['p99_drift']:+.0%} (limit {DRIFT_LIMIT:.0%})")
    for problem in report["problems"]:
        print(f"  PROBLEM {problem}")
    grows = report["mib_per_hour"] > SLOPE_LIMIT
    return 1 if report["problems"] or grows or report["p99_drift"] > DRIFT_LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
