"""What a server must look like after every campaign."""
import collections
import pathlib
import re
import time

from harness import chat_request, pb

CANARY_SECONDS = 1.0
RSS_SLACK_KIB = 96 << 10
SLACK = 24  # threads and descriptors that gRPC keeps


def code_counts(metrics):
    """{(method, code): calls} of tessera_requests_total."""
    counts = collections.Counter()
    for name, value in metrics.items():
        match = re.fullmatch(r'tessera_requests_total\{code="(\w+)",method="(\w+)"\}', name)
        if match:
            counts[match[2], match[1]] += int(value)
    return counts


def total(metrics, family):
    return sum(int(value) for name, value in metrics.items()
               if name == family or name.startswith(family + "{"))


class Footprint:
    def __init__(self, pid):
        proc = pathlib.Path(f"/proc/{pid}")
        status = (proc / "status").read_text()
        self.rss_kib = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
        self.threads = int(re.search(r"Threads:\s+(\d+)", status)[1])
        self.descriptors = len(list((proc / "fd").iterdir()))

    def __str__(self):
        return f"{self.rss_kib >> 10} MiB, {self.threads} threads, {self.descriptors} descriptors"


class Books:
    """Snapshot before a campaign; `check` compares after it."""

    def __init__(self, server):
        self.server = server
        self.canary = chat_request("What is 44 + 9809?")
        self.expected = self.answer()
        server.wait_idle()
        self.before = server.metrics()
        self.footprint = Footprint(server.process.pid)
        self.seen = collections.Counter()  # (method, code) as the client saw it
        self.extra_calls = 0  # of check() itself

    def answer(self):
        return list(self.server.stub.Generate(self.canary, timeout=60).choices[0].token_ids)

    def saw(self, method, code):
        self.seen[method, code.name] += 1

    def delta(self, after, family):
        return total(after, family) - total(self.before, family)

    def check(self, exact_codes=True):
        """Problems, in words; none is good. `exact_codes`: no call could end in two ways."""
        load = self.server.wait_idle(30)
        after = self.server.metrics()
        problems = []

        def expect(ok, what):
            if not ok:
                problems.append(what)

        expect(load.kv_blocks_used == 0, f"{load.kv_blocks_used} KV blocks are in use")
        expect(load.kv_blocks_free + load.kv_blocks_cached == load.kv_blocks_total,
               "free and cached blocks are not all blocks")
        for gauge in ("tessera_num_requests_running", "tessera_num_requests_waiting",
                      "tessera_kv_cache_usage_ratio", "tessera_stream_buffer_bytes",
                      "tessera_active_requests", "tessera_large_requests_queued",
                      "tessera_step_age_seconds"):
            expect(after[gauge] == 0, f"{gauge} is {after[gauge]}")
        expect(after["tessera_engine_up"] == 1, "the engine is down")
        problems += self.check_counters(after, exact_codes)
        started = time.monotonic()
        expect(self.answer() == self.expected, "the canary's answer changed")
        seconds = time.monotonic() - started
        expect(seconds < CANARY_SECONDS, f"the canary took {seconds:.2f} s")
        problems += self.check_footprint()
        return problems

    def check_counters(self, after, exact_codes):
        problems = []
        served = code_counts(after) - code_counts(self.before)
        generations = {key: n for key, n in served.items()
                       if key[0] in ("Generate", "StreamGenerate")}
        received = sum(generations.values())
        for method in {key[0] for key in self.seen}:
            mine = {code: n for (m, code), n in self.seen.items() if m == method and n}
            theirs = {code: n for (m, code), n in served.items() if m == method and n}
            if exact_codes and mine != theirs:
                problems.append(f"{method}: the client saw {mine}, the server counted {theirs}")
            if sum(mine.values()) < sum(theirs.values()):  # a cancelled call may never arrive
                problems.append(f"{method}: {sum(mine.values())} calls made, "
                                f"{sum(theirs.values())} counted")
        ok = sum(n for (_, code), n in generations.items() if code == "OK")
        cancelled = self.delta(after, "tessera_cancelled_total")
        rejected = self.delta(after, "tessera_rejected_total")
        failed = sum(n for (_, code), n in generations.items() if code == "INTERNAL")
        if received != ok + cancelled + rejected + failed:
            problems.append(f"received {received} != ok {ok} + cancelled {cancelled} + rejected "
                            f"{rejected} + failed {failed}")
        return problems

    def check_footprint(self):
        deadline = time.monotonic() + 5
        while True:  # closed connections are noticed a little later
            now = Footprint(self.server.process.pid)
            if (now.rss_kib <= self.footprint.rss_kib + RSS_SLACK_KIB
                    and now.threads <= self.footprint.threads + SLACK
                    and now.descriptors <= self.footprint.descriptors + SLACK):
                return []
            if time.monotonic() > deadline:
                return [f"footprint {now}; before: {self.footprint}"]
            time.sleep(0.1)


def long_request(tokens, text="Hi", **fields):
    """A request that surely makes so many tokens."""
    request = chat_request(text, **fields)
    request.stopping.ignore_eos = True
    request.stopping.max_tokens = tokens
    request.reasoning.separate = False
    return request


__all__ = ["Books", "Footprint", "long_request", "pb"]
