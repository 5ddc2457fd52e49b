"""`tessera doctor` with servers brought into each state, and with pages that tell of rare ones."""
import contextlib
import email.utils
import http.server
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from harness import BIN, NANO, ROOT, Server, chat_request, pb, run_tessera

sys.path.insert(0, str(ROOT / "tests/support"))
from certificates import Authority  # noqa: E402


def doctor(address, metrics, *flags):
    """(exit code, {id: finding})."""
    done = run_tessera("doctor", address, "--metrics", metrics, "--json", "--watch", 0.2, *flags, check=False)
    report = json.loads(done.stdout)
    severities = [finding["severity"] for finding in report["findings"]]
    assert severities == sorted(severities), "problems come first"
    return done.returncode, {finding["id"]: finding for finding in report["findings"]}


def ask(server, *flags):
    return doctor(server.address, f"127.0.0.1:{server.metrics_port}", *flags)


@contextlib.contextmanager
def endless(server, count):
    """Streams that go on until the end of the block, or of the context."""
    request = chat_request("Hi", stopping=pb.StoppingOptions(ignore_eos=True))
    streams = [server.stub.StreamGenerate(request) for _ in range(count)]
    readers = [threading.Thread(target=drain, args=(stream,)) for stream in streams]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for stream in streams:
            stream.cancel()
        for reader in readers:
            reader.join()


def drain(stream):
    try:
        for _ in stream:
            pass
    except Exception:  # noqa: BLE001: cancelled, or refused
        pass


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class StatesTest(unittest.TestCase):
    def test_a_server_that_is_well(self):
        with Server() as server:
            server.stub.Generate(chat_request("Hi"))
            self.assertEqual(ask(server), (0, {}))
            text = run_tessera("doctor", server.address, "--watch", 0,
                               "--metrics", f"127.0.0.1:{server.metrics_port}").stdout
            self.assertRegex(text, r"0 running, 0 waiting, KV cache 0 % in use, version \S+, up ")
            self.assertIn("Nothing is wrong.", text)
            # Without the page it says so, and what it knows.
            code, found = doctor(server.address, "127.0.0.1:1")
            self.assertEqual((code, list(found)), (3, ["no_metrics"]))
            # The API's port has the page, too.
            code, found = doctor(server.address, f"127.0.0.1:{server.http_port}")
            self.assertEqual((code, list(found)), (0, []))

    def test_nobody(self):
        code, found = doctor("127.0.0.1:1", "127.0.0.1:1")
        self.assertEqual((code, list(found)), (1, ["unreachable", "no_metrics"]))
        self.assertEqual(run_tessera("doctor", "nowhere", check=False).returncode, 2)
        with Server() as server:
            code, found = doctor("127.0.0.1:1", f"127.0.0.1:{server.metrics_port}")
        self.assertEqual((code, list(found)), (1, ["unreachable"]))
        self.assertIn("the metrics page answers", found["unreachable"]["advice"])

    def test_one_that_loads(self):
        """The head of two processes waits for the other before it has its weights."""
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            key = pathlib.Path(folder) / "key"
            key.write_text("0123456789abcdef")
            key.chmod(0o600)
            process = subprocess.Popen(
                [BIN, "serve", str(NANO), "--port", "0", "--metrics-port", str(port), "--nodes", "2",
                 "--tensor-parallel-size", "2", "--cluster-address", "127.0.0.1:0",
                 "--cluster-key-file", str(key)], stderr=subprocess.DEVNULL)
            try:
                found = {}

                def loading():
                    found.clear()
                    found.update(doctor("127.0.0.1:1", f"127.0.0.1:{port}")[1])
                    return "loading" in found
                wait_for(loading)
                self.assertEqual(list(found), ["loading"])
                self.assertIn("% of the weights", found["loading"]["what"])
            finally:
                process.kill()
                process.wait()

    def test_one_that_is_saturated(self):
        with Server("--max-concurrent-requests", 2) as server:
            with endless(server, 2):
                wait_for(lambda: server.metrics()["tessera_active_requests"] == 2)
                code, found = ask(server)
                self.assertEqual((code, list(found)), (1, ["saturated"]))
                self.assertIn("2 calls are open of at most 2", found["saturated"]["what"])
                code, found = doctor(server.address, "127.0.0.1:1")
                self.assertEqual((code, list(found)), (1, ["saturated", "no_metrics"]))
            server.wait_idle()
            self.assertEqual(ask(server), (0, {}))

    def test_one_with_a_long_queue(self):
        with Server("--max-num-seqs", 1) as server:
            with endless(server, 8):
                wait_for(lambda: server.metrics()["tessera_num_requests_waiting"] == 7)
                code, found = ask(server)
                self.assertEqual((code, list(found)), (1, ["queue"]))
                self.assertIn("7 requests wait, for a batch of 1", found["queue"]["what"])
            server.wait_idle()

    def test_one_whose_kv_cache_is_full(self):
        with Server("--kv-cache-memory", "3MiB", "--max-model-len", 1000) as server:
            with endless(server, 24):
                wait_for(lambda: server.metrics()["tessera_kv_cache_usage_ratio"] > 0.96)
                for _ in range(20):
                    code, found = ask(server)
                    if "kv_full" in found:
                        break
            self.assertIn("kv_full", found)
            self.assertIn("KV cache is full", found["kv_full"]["what"])
            server.wait_idle()

    def test_one_that_drains(self):
        with Server("--drain-delay", 30) as server:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.get("/readyz")[0] == 503)
            code, found = ask(server)
            self.assertEqual((code, list(found)), (1, ["draining"]))
            server.process.send_signal(signal.SIGTERM)

    def test_its_certificate(self):
        with tempfile.TemporaryDirectory() as folder:
            authority = Authority(folder)
            for days, code, ids in ((365, 0, []), (5, 3, ["certificate"])):
                certificate, key = authority.issue(f"server{days}", days=days)
                with Server("--tls-cert", certificate, "--tls-key", key) as server:
                    target = f"localhost:{server.port}"
                    page = f"127.0.0.1:{server.metrics_port}"
                    got, found = doctor(target, page, "--ca", authority.ca)
                    self.assertEqual((got, list(found)), (code, ids))
                    # Asked without TLS it says what was missing.
                    self.assertEqual(list(doctor(target, page)[1])[:1], ["unreachable"])


class Page:
    """A metrics page of our own making; two lists of lines, shown one after the other."""

    def __init__(self, first, second, skew=0):
        pages = [first, second]

        class Handler(http.server.BaseHTTPRequestHandler):
            def date_time_string(self, timestamp=None):
                return email.utils.formatdate(time.time() + skew, usegmt=True)

            def do_GET(self):
                body = "\n".join(["# a comment", 'tessera_build_info{version="1"} 1',
                                  *(pages.pop(0) if len(pages) > 1 else pages[0]), ""]).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class RareStatesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.real = Server().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.real.__exit__(None, None, None)

    def found(self, first, second=None, skew=0):
        with Page(first, second or first, skew) as page:
            return doctor(self.real.address, page.address)

    def test_each(self):
        def ranks(*seconds):
            return [f'tessera_rank_compute_seconds_total{{model_name="a,\\"b}}",rank="{rank}"}} {value}'
                    for rank, value in enumerate(seconds)]

        def calls(code, number):
            return [f'tessera_requests_total{{code="{code}",method="Generate"}} {number}']

        def queue(*waiting):
            return ["tessera_num_requests_waiting 9", 'tessera_limit{limit="max-num-seqs"} 1',
                    'tessera_limit{limit="max-queued-requests"} 99',
                    *(f'tessera_tenant_waiting_requests{{tenant="t{n}"}} {number}'
                      for n, number in enumerate(waiting))]
        for first, second, code, finding in (
                (ranks(5, 5, 5), ranks(5.1, 5.1, 5.3), 3, "slow_rank"),
                (ranks(1, 9, 1), ranks(1.1, 9.1, 1.1), 0, None),      # slow once, not now
                (ranks(0, 0, 0), ranks(0.001, 0.001, 0.003), 0, None),  # idle
                (["tessera_step_age_seconds 25"], None, 1, "stalled"),
                (["tessera_step_age_seconds 2"], None, 0, None),
                (["tessera_engine_up 0"], None, 1, "failed"),
                (['tessera_unready{reason="not_accepting"} 1'], None, 1, "not_accepting"),
                (["process_open_fds 95", "process_max_fds 100"], None, 3, "open_files"),
                (["tessera_log_lines_dropped_total 4"], None, 0, None),
                (["tessera_log_lines_dropped_total 4"], ["tessera_log_lines_dropped_total 5"], 3, "log"),
                (["tessera_slow_reader_evictions_total 0"], ["tessera_slow_reader_evictions_total 1"], 3,
                 "slow_readers"),
                (calls("INTERNAL", 3), calls("INTERNAL", 4), 1, "errors"),
                (calls("INTERNAL", 3), None, 0, None),
                ([*calls("OK", 0), 'tessera_rejected_total{reason="overloaded"} 0'],
                 [*calls("OK", 9), 'tessera_rejected_total{reason="overloaded"} 3'], 3, "refusing"),
                (["tessera_kv_cache_usage_ratio 0.99", "tessera_num_preemptions_total 1"],
                 ["tessera_kv_cache_usage_ratio 0.99", "tessera_num_preemptions_total 2"], 1, "kv_full"),
                (["tessera_kv_cache_usage_ratio 0.99"], None, 3, "kv_full"),
                (queue(5, 4), None, 1, "queue"),
                (["tessera_certificate_expiry_timestamp_seconds 1000"], None, 1, "certificate"),
                (["tessera_certificate_expiry_timestamp_seconds +Inf"], None, 0, None)):
            with self.subTest((first, second)):
                got, findings = self.found(first, second)
                self.assertEqual((got, list(findings)), (code, [finding] if finding else []))

        what = self.found(queue(2, 7))[1]["queue"]["what"]
        self.assertIn('7 of them are the tenant "t1"\'s', what)
        self.assertNotIn("the tenant", self.found(queue(3, 3, 3))[1]["queue"]["what"])

    def test_clocks(self):
        for skew, code, words in ((60, 3, "ahead of this machine's"), (-90, 3, "behind this machine's"), (0, 0, ""),
                                  (2, 0, "")):
            got, findings = self.found(["tessera_engine_up 1"], skew=skew)
            self.assertEqual(got, code)
            self.assertIn(words, findings.get("clock", {"what": ""})["what"])

    def test_the_runbook_has_what_it_points_to(self):
        runbook = (ROOT / "docs/runbook.md").read_text().lower()
        source = (ROOT / "server/commands/diagnosis.cc").read_text()
        for part in source.split("docs/runbook.md#")[1:]:
            name = part[:min(part.index(")"), part.index('"'))]
            self.assertIn(f"\n## {name}\n", runbook)


if __name__ == "__main__":
    unittest.main()
