"""What an operator sees: metrics, health, drain, start-up errors."""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import grpc

from harness import BIN, NANO, Server, chat_request, collect, pb, run_tessera


def code_of(server, request):
    """The status code of a Generate call with a deadline of a second."""
    try:
        server.stub.Generate(request, timeout=1)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class MetricsTest(unittest.TestCase):
    def test_scrape_counts_what_the_client_did(self):
        with Server() as server:
            ok, prompt, generated = 5, 0, 0
            for _ in range(ok):
                usage = server.stub.Generate(chat_request("What is 44 + 9809?")).usage
                prompt += usage.prompt_tokens
                generated += usage.completion_tokens
            collect(server.stub.StreamGenerate(chat_request("Sort 7, 3, 9.")))
            bad = chat_request("Hi")
            bad.sampling.top_p = 7
            for _ in range(3):
                with self.assertRaises(grpc.RpcError):
                    server.stub.Generate(bad)
            server.wait_idle()
            before = server.metrics()
            self.assertEqual(
                before['tessera_requests_total{code="OK",method="Generate"}'], ok)
            self.assertEqual(
                before['tessera_requests_total{code="OK",method="StreamGenerate"}'], 1)
            self.assertEqual(
                before['tessera_requests_total{code="INVALID_ARGUMENT",method="Generate"}'], 3)
            self.assertGreaterEqual(before["tessera_prompt_tokens_total"], prompt)
            self.assertGreaterEqual(before["tessera_generation_tokens_total"], generated)
            self.assertEqual(before["tessera_time_to_first_token_seconds_count"], ok + 1)
            self.assertEqual(before["tessera_num_requests_running"], 0)
            self.assertGreater(before["tessera_prefix_cache_hits_total"], 0)

    def test_every_request_is_ok_cancelled_rejected_or_failed(self):
        """The books balance, and every series is there before anything happens."""
        with Server("--max-num-seqs", "2", "--max-queued-requests", "4") as server:
            before = server.metrics()
            for name in ('tessera_rejected_total{reason="invalid"}',
                         'tessera_rejected_total{reason="overloaded"}',
                         'tessera_cancelled_total{stage="decode"}',
                         'tessera_request_success_total{finished_reason="stop"}'):
                self.assertEqual(before[name], 0, name)
            bad = chat_request("Hi", n=17)
            endless = chat_request("Hi")
            endless.stopping.ignore_eos = True
            endless.stopping.max_tokens = 4000
            streams = [server.stub.StreamGenerate(endless) for _ in range(2)]
            for stream in streams:
                next(stream)
            with ThreadPoolExecutor(24) as pool:
                codes = list(pool.map(lambda i: code_of(server, [bad, endless][i % 2]),
                                      range(24)))
            for stream in streams:
                stream.cancel()
            server.wait_idle()
            counted = server.metrics()

            def count(family, label=""):
                return sum(int(value) for name, value in counted.items()
                           if name.startswith(family + "{") and label in name)

            self.assertEqual(codes.count(grpc.StatusCode.INVALID_ARGUMENT), 12)
            self.assertEqual(count("tessera_rejected_total", "invalid"), 12)
            self.assertEqual(count("tessera_rejected_total", "overloaded"),
                             codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED))
            self.assertGreater(codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED), 0)
            received = count("tessera_requests_total", "Generate")
            self.assertEqual(received, 26)
            self.assertEqual(received, count("tessera_requests_total", '"OK"')
                             - count("tessera_requests_total", '"GetLoad"')
                             + count("tessera_cancelled_total") + count("tessera_rejected_total"))

    def test_promtool_likes_the_page(self):
        with Server() as server:
            server.stub.Generate(chat_request("Hi"))
            page = server.get("/metrics")[1]
            done = subprocess.run(["promtool", "check", "metrics"], input=page, text=True,
                                  capture_output=True)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_a_trace_of_the_client_is_in_the_log(self):
        trace = "0af7651916cd43dd8448eb211c80319c"
        with Server("--log-level", "debug") as server:
            for header in (f"00-{trace}-b7ad6b7169203331-01", "nonsense"):
                server.stub.Generate(chat_request("Hi"), metadata=(("traceparent", header),))
            log = server.output()
        self.assertEqual(log.count(f"trace {trace}"), 1)
        self.assertNotIn("nonsense", log)

    def test_a_full_server_is_not_ready(self):
        with Server("--max-concurrent-requests", "1") as server:
            request = chat_request("Hi")
            request.stopping.ignore_eos = True
            request.stopping.max_tokens = 4000
            stream = server.stub.StreamGenerate(request)
            next(stream)
            self.assertEqual(server.get("/readyz"), (503, "saturated: the queue is full\n"))
            with self.assertRaises(grpc.RpcError) as caught:
                server.stub.Generate(request)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            trailers = dict(caught.exception.trailing_metadata())
            self.assertGreater(int(trailers["grpc-retry-pushback-ms"]), 0)
            stream.cancel()
            server.wait_idle()
            self.assertEqual(server.get("/readyz")[0], 200)

    def test_health_pages(self):
        with Server() as server:
            self.assertEqual(server.get("/healthz")[0], 200)
            self.assertEqual(server.get("/readyz")[0], 200)
            self.assertEqual(server.get("/nothing")[0], 404)


class DrainTest(unittest.TestCase):
    def test_sigterm_finishes_what_runs(self):
        with Server() as server:
            request = chat_request("Hi")
            request.stopping.ignore_eos = True
            request.stopping.max_tokens = 800
            results = []

            def client():
                choices, _ = collect(server.stub.StreamGenerate(request))
                results.append(len(choices[0].token_ids))

            threads = [threading.Thread(target=client) for _ in range(16)]
            for thread in threads:
                thread.start()
            while server.stub.GetLoad(pb.GetLoadRequest()).active_requests < 16:
                time.sleep(0.005)
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            self.assertEqual(results, [800] * 16)
            self.assertEqual(server.process.wait(30), 0)

    def test_load_balancers_get_time_to_notice(self):
        """During --drain-delay nobody is sent here, and who comes is served."""
        with Server("--drain-delay", "1") as server:
            watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            self.assertEqual(next(watch), b"\x08\x01")  # SERVING
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(next(watch), b"\x08\x02")  # NOT_SERVING
            self.assertEqual(server.get("/readyz"), (503, "draining\n"))
            self.assertFalse(server.stub.GetServerInfo(pb.GetServerInfoRequest()).ready)
            self.assertEqual(server.stub.Generate(chat_request("What is 1 + 1?"))
                             .choices[0].text, "2")
            self.assertEqual(server.get("/healthz")[0], 200)

    def test_second_sigterm_ends_fast(self):
        with Server() as server:
            request = chat_request("Hi")
            request.stopping.ignore_eos = True
            request.stopping.max_tokens = 4000
            stream = server.stub.StreamGenerate(request)
            next(stream)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            server.process.wait(10)
            self.assertLess(time.monotonic() - started, 5)
            server.expect_exit = server.process.returncode


class StartTest(unittest.TestCase):
    def fails(self, *arguments, code=1):
        done = run_tessera(*arguments, check=False, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn("terminate called", done.stderr)
        self.assertNotIn("CHECK failed", done.stderr)
        return done.stdout + done.stderr

    def test_missing_and_broken_model_folders(self):
        self.assertIn("/no/such/model", self.fails("serve", "/no/such/model", "--port", 0,
                                                   "--metrics-port", 0))
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder)
            self.assertIn("config.json", self.fails("serve", broken, "--port", 0,
                                                    "--metrics-port", 0))
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json",
                         "generation_config.json"):
                shutil.copy(NANO / name, broken / name)
            self.assertIn("model.safetensors", self.fails("serve", broken, "--port", 0,
                                                          "--metrics-port", 0))
            data = (NANO / "model.safetensors").read_bytes()
            (broken / "model.safetensors").write_bytes(data[:len(data) // 2])
            self.assertIn("model.safetensors", self.fails("serve", broken, "--port", 0,
                                                          "--metrics-port", 0))
            (broken / "model.safetensors").write_bytes(data)
            config = json.loads((broken / "config.json").read_text())
            config["hidden_size"] = 128
            (broken / "config.json").write_text(json.dumps(config))
            self.assertIn("model.embed_tokens.weight", self.fails("check", broken))

    def test_busy_port(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for ports in (("--port", port, "--http-port", 0, "--metrics-port", 0),
                          ("--port", 0, "--http-port", port, "--metrics-port", 0),
                          ("--port", 0, "--metrics-port", port)):
                error = self.fails("serve", NANO, *ports)
                self.assertIn(str(port), error)
                self.assertNotIn("loading", error)  # that would have been minutes

    def test_files_that_could_not_be_written_in_the_end(self):
        for option in ("--ready-file", "--expert-stats-file"):
            error = self.fails("serve", NANO, "--port", 0, "--metrics-port", 0, option,
                               "/nowhere/file")
            self.assertIn(f"{option}: cannot write into /nowhere", error)
            self.assertNotIn("loading", error)

    def test_too_little_memory(self):
        self.assertIn("give the KV cache less memory",
                      self.fails("serve", NANO, "--port", 0, "--metrics-port", 0,
                                 "--kv-cache-memory", "4TiB"))

    def test_usage_errors(self):
        self.assertIn('did you mean "port"', self.fails("serve", NANO, "--prot", 1, code=2))
        self.fails("nonsense", code=2)
        self.fails(code=2)
        self.fails("serve", code=2)

    def test_help_of_every_command(self):
        for command in ("serve", "generate", "score", "chat", "client", "tokenize", "check",
                        "bench", "version"):
            done = run_tessera(command, "--help")
            self.assertGreater(len(done.stdout), 40, command)

    def test_ready_file_appears_when_it_serves(self):
        with tempfile.TemporaryDirectory() as folder:
            ready = pathlib.Path(folder) / "ready"
            process = subprocess.Popen(
                [BIN, "serve", str(NANO), "--port", "0", "--metrics-port", "0", "--ready-file",
                 str(ready)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                while not ready.exists():
                    self.assertIsNone(process.poll())
                    time.sleep(0.01)
                info = json.loads(ready.read_text())
                self.assertEqual(info["pid"], process.pid)
                socket.create_connection(("127.0.0.1", info["grpc_port"])).close()
            finally:
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(30), 0)


if __name__ == "__main__":
    unittest.main()
