"""What the machine around a server does to it: addresses, proxies, memory, supervisors."""
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
import unittest

import grpc

from harness import BIN, NANO, Server, chat_request, collect, pb, run_tessera, violations

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def answer(address, **environment):
    """`tessera client` against `address`: the finished process."""
    return subprocess.run(
        [BIN, "client", address, "--prompt", "Count: 1 2 3", "--temperature", "0",
         "--max-tokens", "3", "--timeout", "20"], capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=60)


class ProxyTest(unittest.TestCase):
    """A proxy that the environment names is for other machines."""

    def test_servers_of_this_machine_are_reached_without_it(self):
        with Server("--host", "localhost") as server:
            plain = answer(f"127.0.0.1:{server.port}")
            self.assertEqual(plain.returncode, 0, plain.stderr)
            for name in PROXIES:
                for host in ("127.0.0.1", "localhost"):
                    done = answer(f"{host}:{server.port}", **{name: "http://127.0.0.1:9"})
                    self.assertEqual((done.returncode, done.stdout), (0, plain.stdout),
                                     f"{name}: {done.stderr}")

    def test_an_error_names_the_proxy(self):
        done = answer("192.0.2.1:50051", http_proxy="http://127.0.0.1:9")
        self.assertEqual(done.returncode, 1)
        self.assertIn("http_proxy=http://127.0.0.1:9", done.stderr)
        self.assertNotIn("proxy", answer("127.0.0.1:9", http_proxy="http://127.0.0.1:9").stderr)


@unittest.skipUnless(has_ipv6(), "this machine has no IPv6")
class Ipv6Test(unittest.TestCase):
    def test_loopback_and_all_addresses(self):
        cases = {"::1": ["[::1]"], "[::1]": ["[::1]"], "::": ["[::1]", "127.0.0.1", "localhost"]}
        for host, reached in cases.items():
            exposed = ["--insecure"] if host == "::" else []
            with self.subTest(host=host), Server("--host", host, *exposed) as server:
                self.assertIn(f'on [{host.strip("[]")}]:{server.port}', server.output())
                for name in reached:
                    done = answer(f"{name}:{server.port}", http_proxy="http://127.0.0.1:9")
                    self.assertEqual(done.returncode, 0, f"{name}: {done.stderr}")

    def test_a_port_in_use(self):
        with socket.socket(socket.AF_INET6) as taken:
            taken.bind(("::1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = run_tessera("serve", NANO, "--host", "::1", "--port", port, "--metrics-port", 0,
                               check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"cannot listen on [::1]:{port}", done.stderr)


class UnixSocketTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name) / "tessera.sock"
        self.host = f"unix:{self.path}"

    def tearDown(self):
        self.folder.cleanup()

    def test_serves_and_goes_with_the_server(self):
        with Server("--host", self.host) as server:
            self.assertTrue(stat.S_ISSOCK(self.path.stat().st_mode))
            done = answer(self.host, http_proxy="http://127.0.0.1:9")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(server.get("/readyz")[0], 200)
            self.assertIn(f"on {self.host}", server.output())
            # A second server must not take the first one's place.
            second = run_tessera("serve", NANO, "--host", self.host, "--metrics-port", 0,
                                 check=False)
            self.assertEqual(second.returncode, 1)
            self.assertIn(f"cannot listen on {self.host}", second.stderr)
            self.assertNotIn("loading", second.stderr)
            self.assertEqual(answer(self.host).returncode, 0)
        self.assertFalse(self.path.exists())

    def test_what_a_killed_server_left_is_no_obstacle(self):
        with Server("--host", self.host, expect_exit=-9) as server:
            server.process.kill()
            server.process.wait()
        self.assertTrue(self.path.exists())
        with Server("--host", self.host):
            self.assertEqual(answer(self.host).returncode, 0)

    def test_paths_that_cannot_be(self):
        for path in (f"{self.folder.name}/none/socket", f"{self.folder.name}/{'x' * 120}"):
            done = run_tessera("serve", NANO, "--host", f"unix:{path}", "--metrics-port", 0,
                               check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"cannot listen on unix:{path}", done.stderr)
            self.assertNotIn("loading", done.stderr)


class CutContextTest(unittest.TestCase):
    def test_is_said_at_start_and_in_refusals(self):
        with Server("--kv-cache-memory", "1MiB") as server:
            log = server.output()
            self.assertRegex(log, r"warning.* KV cache holds 512 tokens, fewer than the context of "
                                  r"the model \(4096\).*--kv-cache-memory 8388608 ")
            with self.assertRaises(grpc.RpcError) as caught:
                server.stub.Generate(chat_request("a " * 600))
            self.assertEqual(violations(caught.exception), ["prompt"])
            for part in ("context of 512 tokens", "KV cache", "the model has 4096"):
                self.assertIn(part, caught.exception.details())
            many = chat_request("Hi")
            many.stopping.max_tokens = 1000
            with self.assertRaises(grpc.RpcError) as caught:
                server.stub.Generate(many)
            self.assertIn("the model has 4096", caught.exception.details())

    def test_nothing_is_said_of_a_context_that_fits_or_was_asked_for(self):
        for flags in ([], ["--max-model-len", "512", "--kv-cache-memory", "1MiB"]):
            with Server(*flags) as server:
                self.assertNotIn("warning", server.output())
                with self.assertRaises(grpc.RpcError) as caught:
                    server.stub.Generate(chat_request("a " * 5000))
                self.assertNotIn("KV cache", caught.exception.details())


class SupervisorTest(unittest.TestCase):
    """Signals that come together are one wish to stop."""

    def ends(self, *signals):
        with Server() as server:
            request = chat_request("Hi")
            request.stopping.ignore_eos = True
            request.stopping.max_tokens = 1500
            results = []

            def client():
                choices, _ = collect(server.stub.StreamGenerate(request))
                results.append(len(choices[0].token_ids))

            thread = threading.Thread(target=client)
            thread.start()
            while server.stub.GetLoad(pb.GetLoadRequest()).num_running < 1:
                time.sleep(0.005)
            for number in signals:
                server.process.send_signal(number)
                time.sleep(0.001)
            thread.join()
            self.assertEqual(results, [1500], signals)
            self.assertEqual(server.process.wait(30), 0)

    def test_two_within_a_moment_count_once(self):
        self.ends(signal.SIGTERM, signal.SIGTERM)
        self.ends(signal.SIGINT, signal.SIGTERM, signal.SIGINT)


if __name__ == "__main__":
    unittest.main()
