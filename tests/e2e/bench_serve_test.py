"""`tessera bench serve` against a real server and against a fake one whose times are known."""
import http.server
import json
import pathlib
import re
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BIN, Server, run_tessera


class FakeApi:
    """OpenAI's API with answers of five chunks at known times, and troubles that a test asks for."""

    FIRST, NEXT, TOKENS = 0.1, 0.02, 5

    def __init__(self, usage="every", trouble=None, first=FIRST):
        self.calls = []  # (seconds since the start, path, body, headers)
        self.most_at_once = self.now = 0
        self.begin = time.monotonic()
        self.lock = threading.Lock()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.whole(200, {"data": [{"id": "fake-1"}, {"id": "fake-2"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake.lock:
                    number = len(fake.calls)
                    fake.calls.append((time.monotonic() - fake.begin, self.path, body, self.headers))
                    fake.now += 1
                    fake.most_at_once = max(fake.most_at_once, fake.now)
                try:
                    self.answer(trouble(number) if trouble else None, body)
                finally:
                    with fake.lock:
                        fake.now -= 1

            def answer(self, kind, body):
                if kind == "busy":
                    return self.whole(429, {"error": {"message": "too many", "code": 429}})
                if kind == "closed":
                    self.close_connection = True
                    return None
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for token in range(fake.TOKENS):
                    time.sleep(first if token == 0 else fake.NEXT)
                    if token == 2 and kind == "error":
                        self.event({"error": {"message": "broke", "code": 500}})
                        return self.chunk(b"")
                    if token == 3 and kind == "cut":
                        return self.chunk(b"")
                    choice = {"index": 0, "text": "a"} if "prompt" in body else \
                        {"index": 0, "delta": {"content": "a"}}
                    chunk = {"choices": [choice]}
                    if usage == "every":
                        chunk["usage"] = {"prompt_tokens": 7, "completion_tokens": token + 1}
                    self.event(chunk)
                if usage == "last":
                    self.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 6}})
                self.chunk(b"data: [DONE]\n\n")
                return self.chunk(b"")

            def event(self, content):
                data = b"data: " + json.dumps(content).encode() + b"\n\n"
                half = len(data) // 2  # pieces of the network are not pieces of the stream
                self.chunk(data[:half])
                self.chunk(data[half:])

            def chunk(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def whole(self, status, content):
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that went away
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def bench(target, *flags, check=True):
    return json.loads(run_tessera("bench", "serve", target, "--json", "--progress", 0, *flags,
                                  check=check).stdout)


class FakeTest(unittest.TestCase):
    def test_times_and_tokens(self):
        for usage, tokens in (("every", 5), ("never", 5), ("last", 6)):
            with self.subTest(usage), FakeApi(usage) as fake:
                report = bench(fake.url, "--num-requests", 8, "--concurrency", 2)
                self.assertEqual((report["requests"], report["failed"], report["loop"]), (8, 0, "closed"))
                self.assertEqual(report["output_tokens"], 8 * tokens)
                self.assertEqual(report["input_tokens"], 0 if usage == "never" else 8 * 7)
                self.assertEqual(fake.most_at_once, 2)
                first = report["time_to_first_token_seconds"]["p50"]
                self.assertTrue(0.1 <= first < 0.4, first)
                following = report["inter_token_latency_seconds"]["p50"]
                self.assertTrue(0.018 <= following < 0.1, following)
                self.assertGreaterEqual(report["request_seconds"]["p50"], 0.18)

    def test_what_is_asked(self):
        with tempfile.NamedTemporaryFile("w") as key, FakeApi() as fake:
            key.write("secret\n")
            key.flush()
            bench(fake.url, "--num-requests", 1, "--input-len", 9, "--output-len", 5,
                  "--api-key-file", key.name)
            bench(fake.url + "/v1/", "--num-requests", 1, "--input-len", 9, "--model", "mine",
                  "--endpoint", "completions", "--no-ignore-eos")
        (_, path, body, headers), (_, other_path, other, _) = fake.calls
        self.assertEqual((path, other_path), ("/v1/chat/completions", "/v1/completions"))
        self.assertEqual((body["model"], other["model"]), ("fake-1", "mine"))
        self.assertEqual(len(body["messages"][0]["content"].split()), 9)
        self.assertEqual(len(other["prompt"]), 9)
        self.assertEqual((body["max_tokens"], body["stream"], body["ignore_eos"]), (5, True, True))
        self.assertNotIn("ignore_eos", other)
        self.assertEqual(headers["authorization"], "Bearer secret")

    def test_failures_are_counted_by_code(self):
        kinds = [None, "busy", "cut", "error", "closed"]
        with FakeApi(trouble=lambda number: kinds[number % 5]) as fake:
            report = bench(fake.url, "--num-requests", 20, "--concurrency", 4, "--slo-ttft-ms", 5000)
            text = run_tessera("bench", "serve", fake.url, "--num-requests", 5, "--concurrency", 1).stdout
        self.assertEqual((report["requests"], report["failed"]), (20, 16))
        self.assertEqual({code: each["count"] for code, each in report["errors"].items()},
                         {"RESOURCE_EXHAUSTED": 4, "INTERNAL": 4, "UNAVAILABLE": 8})
        self.assertIn("too many", report["errors"]["RESOURCE_EXHAUSTED"]["first"])
        self.assertIn("broke", report["errors"]["INTERNAL"]["first"])
        self.assertEqual(report["goodput"]["share"], 0.2)
        self.assertIn("error RESOURCE_EXHAUSTED: 1 times", text)
        with FakeApi(trouble=lambda _: "busy") as fake:
            done = run_tessera("bench", "serve", fake.url, "--num-requests", 2, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("too many", done.stderr)

    def test_goodput_counts_what_meets_both_objectives(self):
        with FakeApi() as fake:
            def share(*flags):
                return bench(fake.url, "--num-requests", 4, *flags)["goodput"]["share"]
            self.assertEqual(share("--slo-ttft-ms", 1000, "--slo-itl-ms", 500), 1)
            self.assertEqual(share("--slo-ttft-ms", 50), 0)
            self.assertEqual(share("--slo-ttft-ms", 1000, "--slo-itl-ms", 5), 0)
            self.assertIsNone(bench(fake.url, "--num-requests", 1)["goodput"])

    def test_an_open_loop_sends_at_its_times(self):
        with FakeApi() as fake:
            report = bench(fake.url, "--rate", 20, "--num-requests", 60)
            times = [call[0] for call in fake.calls]
        self.assertEqual((report["loop"], report["requests"]), ("open", 60))
        gaps = [after - before for before, after in zip(times, times[1:])]
        self.assertAlmostEqual(statistics.mean(gaps), 0.05, delta=0.02)
        # Exponential gaps: as wide as they are long.
        self.assertGreater(statistics.stdev(gaps), 0.02)
        self.assertGreater(fake.most_at_once, 2)

    def test_waiting_for_a_place_is_the_servers_time(self):
        """One that can answer five a second and gets ten: whoever comes late has waited."""
        with FakeApi() as fake:
            report = bench(fake.url, "--rate", 20, "--num-requests", 20, "--concurrency", 1)
        self.assertGreater(report["time_to_first_token_seconds"]["p99"], 1)
        self.assertGreater(report["lateness_seconds"]["p99"], 1)

    def test_a_trace(self):
        with tempfile.TemporaryDirectory() as folder, FakeApi() as fake:
            trace = pathlib.Path(folder) / "trace"
            trace.write_text('{"at": 0.6, "input": 3, "output": 2}\n\n{"at": 0.1, "input": 8, "output": 4}\n')
            report = bench(fake.url, "--trace", trace)
            self.assertEqual((report["loop"], report["requests"]), ("open", 2))
            (first, _, early, _), (second, _, late, _) = fake.calls
            self.assertAlmostEqual(second - first, 0.5, delta=0.2)
            self.assertEqual([len(body["messages"][0]["content"].split()) for body in (early, late)], [8, 3])
            self.assertEqual([body["max_tokens"] for body in (early, late)], [4, 2])
            for text, problem in (("", "no line"), ("[1]\n", "line 1: no JSON object"),
                                  ('{"input": 1, "output": 1}\n{"input": 0, "output": 1}', 'line 2: "input"'),
                                  ('{"at": -1, "input": 1, "output": 1}', 'line 1: "at"'),
                                  ('{"at": 1, "input": 1, "output": 1}\n{"input": 1, "output": 1}', "some lines")):
                trace.write_text(text)
                done = run_tessera("bench", "serve", fake.url, "--trace", trace, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertIn(problem, done.stderr)

    def test_lengths_of_chats_vary_around_their_median(self):
        with FakeApi(first=0) as fake:
            fake.NEXT = 0
            bench(fake.url, "--lengths", "chat", "--input-len", 40, "--output-len", 30, "--seed", 3,
                  "--num-requests", 200, "--concurrency", 8)
            inputs = [len(call[2]["messages"][0]["content"].split()) for call in fake.calls]
            outputs = [call[2]["max_tokens"] for call in fake.calls]
        self.assertAlmostEqual(statistics.median(inputs), 40, delta=12)
        self.assertAlmostEqual(statistics.median(outputs), 30, delta=7)
        self.assertGreater(max(inputs), 150)
        self.assertLess(min(inputs), 15)

    def test_progress_deadlines_and_an_early_end(self):
        with FakeApi() as fake:
            report = bench(fake.url, "--num-requests", 2, "--timeout", 0.05, "--model", "fake-1", check=False)
            self.assertEqual(report["errors"]["DEADLINE_EXCEEDED"]["count"], 2)
            begin = time.monotonic()
            report = bench(fake.url, "--duration", 0.5, "--concurrency", 2)
            self.assertLess(time.monotonic() - begin, 5)
            self.assertGreater(report["requests"], 3)
            process = subprocess.Popen([BIN, "bench", "serve", fake.url, "--num-requests", "1000",
                                        "--progress", "0.1"], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            output, progress = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0)
        sent = int(re.search(r"serve: (\d+) requests.* 0 failed", output)[1])
        self.assertTrue(10 < sent < 1000, output)
        self.assertRegex(progress, r"0\.\d s: \d+ sent, \d+ under way, \d+ done, 0 failed, [\d.]+ tokens/s\n")

    def test_wrong_command_lines(self):
        for flags, problem in ((["https://127.0.0.1:1"], "http://HOST:PORT"), (["http://"], "http://HOST:PORT"),
                               (["http://127.0.0.1:99999"], "http://HOST:PORT"), (["nowhere"], "HOST:PORT"),
                               (["127.0.0.1:1", "--model", "x"], "--model"),
                               (["http://127.0.0.1:1", "--tls"], "--tls"),
                               (["127.0.0.1:1", "--rate", -1], "--rate"),
                               (["127.0.0.1:1", "--trace", "x", "--lengths", "chat"], "--trace")):
            done = run_tessera("bench", "serve", *flags, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn(problem, done.stderr)
        done = run_tessera("bench", "serve", "http://127.0.0.1:1", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no server answers at 127.0.0.1:1", done.stderr)


class ServedTest(unittest.TestCase):
    def test_every_way_to_a_real_server(self):
        with Server("--max-concurrent-requests", 4) as server:
            http = f"http://127.0.0.1:{server.http_port}"
            for target, flags in ((server.address, []), (http, []), (http, ["--endpoint", "completions"])):
                report = bench(target, "--num-requests", 12, "--concurrency", 3, "--input-len", 20,
                               "--output-len", 10, "--slo-ttft-ms", 60000, *flags)
                self.assertEqual((report["failed"], report["output_tokens"]), (0, 120), report)
                self.assertEqual(report["goodput"]["share"], 1)
                self.assertGreaterEqual(report["input_tokens"], 12 * 20)
            # More than it takes: what is refused is counted, by the same name both ways.
            for target in (server.address, http):
                report = bench(target, "--rate", 500, "--num-requests", 60, "--output-len", 60)
                self.assertEqual(list(report["errors"]), ["RESOURCE_EXHAUSTED"], report)
            server.wait_idle()
            self.assertEqual(server.metrics()['tessera_requests_total{code="OK",method="Completions"}'], 12)


if __name__ == "__main__":
    unittest.main()
