"""What operators look at: logs that nobody reads, counters of calls that never were, vLLM's names."""
import fcntl
import json
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc

from harness import BIN, NANO, Server, chat_request, pb, pb_grpc, run_tessera

F_SETPIPE_SZ = 1031


class UnreadLogTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        ready = pathlib.Path(self.folder.name) / "ready"
        self.read_end, write_end = os.pipe()
        fcntl.fcntl(self.read_end, F_SETPIPE_SZ, 4096)
        self.process = subprocess.Popen(
            [BIN, "serve", str(NANO), "--port", "0", "--metrics-port", "0", "--log-level", "debug",
             "--ready-file", str(ready)], stderr=write_end)
        os.close(write_end)
        while not ready.exists():
            self.assertIsNone(self.process.poll())
            time.sleep(0.01)
        info = json.loads(ready.read_text())
        self.pages = f"http://127.0.0.1:{info['metrics_port']}"
        self.channel = grpc.insecure_channel(f"127.0.0.1:{info['grpc_port']}")
        self.stub = pb_grpc.InferenceStub(self.channel)

    def tearDown(self):
        self.channel.close()
        os.close(self.read_end)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def dropped(self):
        with urllib.request.urlopen(f"{self.pages}/metrics", timeout=10) as page:
            for line in page.read().decode().splitlines():
                if line.startswith("tessera_log_lines_dropped_total"):
                    return float(line.rsplit(" ", 1)[1])

    def ask(self, number):
        request = pb.GenerateRequest(request_id=f"{number}-" + "x" * 100)
        request.token_ids.ids.extend([3, 4])
        request.stopping.max_tokens = 1
        self.stub.Generate(request, timeout=30)

    def test_stops_nobody_and_says_what_is_missing(self):
        self.assertEqual(self.dropped(), 0)
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(self.ask, range(2500)))
        dropped = self.dropped()
        self.assertGreater(dropped, 0)
        # The pipe is read at last: it tells what is missing, and takes new lines again.
        text = self.read_while(lambda text: b"log lines were dropped" not in text)
        self.assertIn(b"%d log lines were dropped" % dropped, text)
        self.read_while(lambda text: select.select([self.read_end], [], [], 0.5)[0])
        self.ask(9999)
        self.read_while(lambda text: b" 9999-" not in text)

    def read_while(self, condition):
        text, end = b"", time.monotonic() + 20
        while condition(text):
            ready = select.select([self.read_end], [], [], max(0, end - time.monotonic()))[0]
            self.assertTrue(ready, "no more lines came")
            text += os.read(self.read_end, 1 << 16)
        return text

    def test_the_end_waits_for_no_reader(self):
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(self.ask, range(100)))
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(20), 0)
        self.assertLess(time.monotonic() - started, 10)


class JsonLogTest(unittest.TestCase):
    def test_every_line_is_an_object(self):
        with Server("--log-format", "json", "--log-level", "debug") as server:
            server.stub.Generate(chat_request("Hi", request_id="mine"))
            log = server.output()
        lines = [json.loads(line) for line in log.splitlines()]
        self.assertGreater(len(lines), 3)
        for line in lines:
            self.assertEqual(sorted(line), ["level", "message", "time"])
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertIn("debug", {line["level"] for line in lines})
        self.assertTrue(any('serving "nano"' in line["message"] for line in lines))
        self.assertTrue(any(" mine OK" in line["message"] for line in lines))

    def test_also_the_last_words(self):
        done = run_tessera("serve", "/no/such/model", "--port", 0, "--metrics-port", 0,
                           "--log-format", "json", check=False)
        self.assertEqual(done.returncode, 1)
        last = json.loads(done.stderr.splitlines()[-1])
        self.assertEqual(last["level"], "error")
        self.assertIn("/no/such/model", last["message"])


class CallsThatNeverWereTest(unittest.TestCase):
    def test_a_reset_before_the_message_is_no_bad_request(self):
        with Server() as server:
            for method in ("Generate", "StreamGenerate", "GetLoad"):
                call = server.channel.stream_stream(f"/tessera.v1.Inference/{method}")

                def nothing():
                    time.sleep(0.3)
                    return
                    yield

                for _ in range(4):
                    calls = [call(nothing()) for _ in range(5)]
                    time.sleep(0.05)
                    for one in calls:
                        one.cancel()
            end = time.monotonic() + 10
            while True:
                counted = server.metrics()
                cancelled = sum(value for name, value in counted.items()
                                if name.startswith('tessera_requests_total{code="CANCELLED"'))
                if cancelled >= 60 or time.monotonic() > end:
                    break
                time.sleep(0.1)
            for method in ("Generate", "StreamGenerate", "GetLoad"):
                self.assertEqual(
                    counted[f'tessera_requests_total{{code="INVALID_ARGUMENT",method="{method}"}}'],
                    0)
                self.assertEqual(
                    counted[f'tessera_requests_total{{code="CANCELLED",method="{method}"}}'], 20)


class ReflectionTest(unittest.TestCase):
    def ask(self, server, question, version="v1"):
        """What ServerReflectionInfo answers; empty: there is no such service."""
        call = server.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        try:
            return next(call(iter([question])))
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED)
            return b""

    def test_only_when_it_is_wanted(self):
        for version in ("v1", "v1alpha"):
            with Server() as server:
                names = self.ask(server, b"\x3a\x01*", version)  # field 7, list_services
                for name in (b"tessera.v1.Inference", b"grpc.health.v1.Health",
                             b"grpc.reflection.v1.ServerReflection"):
                    self.assertIn(name, names)
            with Server("--no-reflection") as server:
                self.assertEqual(self.ask(server, b"\x3a\x01*", version), b"")
                watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
                self.assertEqual(next(watch), b"\x08\x01")

    def test_a_client_can_build_the_messages(self):
        with Server() as server:
            for symbol, parts in (
                    (b"tessera.v1.Inference.StreamGenerate", [b"tessera/v1/inference.proto"]),
                    (b"tessera.v1.StatusDetails", [b"tessera/v1/error_details.proto",
                                                   b"google/protobuf/any.proto"])):
                answer = self.ask(server, b"\x22" + bytes([len(symbol)]) + symbol)
                for part in parts:
                    self.assertIn(part, answer)
            unknown = self.ask(server, b"\x22\x03a.b")
            self.assertIn(b"there is no symbol a.b", unknown)
            # Several questions on one stream, in order.
            call = server.channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            answers = list(call(iter([b"\x22\x03a.b", b"\x3a\x01*", b""])))
            self.assertEqual(len(answers), 3)
            self.assertIn(b"tessera.v1.Inference", answers[1])
            self.assertIn(b"message_request must be set", answers[2])


class HealthTest(unittest.TestCase):
    def test_by_service(self):
        with Server("--drain-delay", "1") as server:  # so that the news arrives before the end
            check = server.channel.unary_unary("/grpc.health.v1.Health/Check")
            watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch")
            service = b"\x0a\x14tessera.v1.Inference"
            self.assertEqual(check(b""), b"\x08\x01")
            self.assertEqual(check(service), b"\x08\x01")
            with self.assertRaises(grpc.RpcError) as unknown:
                check(b"\x0a\x03a.b")
            self.assertEqual(unknown.exception.code(), grpc.StatusCode.NOT_FOUND)
            with self.assertRaises(grpc.RpcError) as garbage:
                check(b"\xff")
            self.assertEqual(garbage.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(next(watch(b"\x0a\x03a.b")), b"\x08\x03", "SERVICE_UNKNOWN")
            states = watch(service)
            self.assertEqual(next(states), b"\x08\x01")
            server.process.terminate()
            self.assertEqual(next(states), b"\x08\x02", "NOT_SERVING from the signal on")


class MetricsNamesTest(unittest.TestCase):
    def page(self, *flags):
        with Server(*flags) as server:
            server.stub.Generate(chat_request("Hi"))
            server.wait_idle()
            return server.get("/metrics")[1]

    def test_series_have_the_name_of_the_model_and_are_there_from_the_start(self):
        page = self.page("--served-model-name", "tiny")
        for line in page.splitlines():
            if not line.startswith("#"):
                self.assertIn('model_name="tiny"', line)
        for line in ('tessera_requests_total{code="INTERNAL",method="Abort",model_name="tiny"} 0',
                     'tessera_requests_total{code="OK",method="ChatCompletions",model_name="tiny"} 0',
                     'tessera_requests_total{code="OK",method="Completions",model_name="tiny"} 0',
                     'tessera_requests_total{code="OK",method="Responses",model_name="tiny"} 0',
                     'tessera_ready{model_name="tiny"} 1',
                     'tessera_unready{reason="draining",model_name="tiny"} 0',
                     'tessera_limit{limit="max-model-len",model_name="tiny"} 4096',
                     'tessera_request_prompt_tokens_count{model_name="tiny"} 1',
                     'tessera_request_generation_tokens_count{model_name="tiny"} 1',
                     'tessera_request_inference_time_seconds_count{model_name="tiny"} 1'):
            self.assertIn(f"\n{line}\n", page)
        for name in ("process_cpu_seconds_total", "process_resident_memory_bytes",
                     "process_open_fds", "process_start_time_seconds"):
            value = float(page.split(f'\n{name}{{model_name="tiny"}} ')[1].split()[0])
            self.assertGreater(value, 0, name)
        self.assertAlmostEqual(
            float(page.split("\nprocess_start_time_seconds")[1].split()[1]), time.time(), delta=60)

    def test_names_of_vllm(self):
        page = self.page("--metrics-prefix", "vllm", "--served-model-name", "tiny")
        # What the panels of vLLM's example dashboard ask for.
        for name in ("e2e_request_latency_seconds_bucket", "generation_tokens_total",
                     "inter_token_latency_seconds_bucket", "kv_cache_usage_perc",
                     "num_requests_running", "num_requests_waiting", "prompt_tokens_total",
                     "request_decode_time_seconds_sum", "request_generation_tokens_bucket",
                     "request_inference_time_seconds_count", "request_prefill_time_seconds_sum",
                     "request_prompt_tokens_bucket", "request_queue_time_seconds_sum",
                     "request_success_total", "time_to_first_token_seconds_bucket"):
            self.assertRegex(page, f'\nvllm:{name}{{[^}}]*model_name="tiny"')
        self.assertIn('vllm:request_success_total{finished_reason="stop"', page)
        self.assertNotIn("tessera_", page)
        done = run_tessera("serve", NANO, "--metrics-prefix", "a-b", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--metrics-prefix", done.stderr)


if __name__ == "__main__":
    unittest.main()
