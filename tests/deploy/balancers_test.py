#!/usr/bin/env python3
"""deploy/balancers in front of two real servers: streams, details of errors, deadlines, cancelling,
large messages, a drain without an error, a server that returns, kill -9, and no server left. The
configurations are the shipped files; only addresses are replaced. A balancer that is not installed is
skipped, and an error where CI=true.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e"), str(HERE.parent / "support")]
os.environ["PATH"] += ":/usr/sbin"

import harness  # noqa: E402
import http2_client  # noqa: E402
import pypi_tools  # noqa: E402
from harness import grpc, pb  # noqa: E402
from returning_server import ReturningServer, free_ports  # noqa: E402

BALANCERS = harness.ROOT / "deploy/balancers"
DRAIN_DELAY = 3
CLIENTS = 6


def skip_without(program):
    missing = not shutil.which(program) and os.environ.get("CI") != "true"
    return unittest.skipIf(missing, f"{program} is not installed")


class Replica(ReturningServer):
    """One that waits for balancers before it drains."""

    def __init__(self, *flags):
        super().__init__("--drain-delay", DRAIN_DELAY, "--drain-timeout", 20, *flags)

    def served(self):
        return sum(value for name, value in self.metrics().items()
                   if name.startswith("tessera_requests_total") and 'method="StreamGenerate"' in name)


class Callers:
    """Clients that call until they are stopped. A stream without `finish` counts as lost."""

    def __init__(self, stub):
        self.stub = stub
        self.stop = threading.Event()
        self.done, self.lost = 0, []
        self.threads = [threading.Thread(target=self._call) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _call(self):
        while not self.stop.is_set():
            try:
                request = harness.chat_request("What is 44 + 9809?")
                request.stopping.max_tokens = 16
                choices, _ = harness.collect(self.stub.StreamGenerate(request, timeout=30))
                if choices[0].HasField("finish"):
                    self.done += 1
                else:
                    self.lost.append("no finish")
            except grpc.RpcError as error:
                self.lost.append(f"{error.code().name}: {error.details()}")

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Balanced:
    """The cases; each subclass starts its balancer. They run in the order of their names."""

    @classmethod
    def setUpClass(cls):
        cls.replicas = [Replica().__enter__(), Replica().__enter__()]
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="balancer-"))
        cls.balancer = None
        try:
            cls.channel = cls.start()
            grpc.channel_ready_future(cls.channel).result(20)
            cls.stub = harness.pb_grpc.InferenceStub(cls.channel)
            cls.wait_until(lambda: cls.probe_once() is None, "the balancer serves")
            time.sleep(1.5)  # both servers are known to be well
        except Exception:
            print(cls.log(), flush=True)
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        if cls.balancer:
            cls.balancer.terminate()
            cls.balancer.wait(20)
        for each in cls.replicas:
            if each.process.poll() is None:
                each.end(signal.SIGKILL)
        shutil.rmtree(cls.folder)

    @classmethod
    def log(cls):
        file = cls.folder / "log"
        return file.read_text(errors="replace")[-3000:] if file.exists() else ""

    @classmethod
    def run_balancer(cls, *command):
        with open(cls.folder / "log", "wb") as log:
            cls.balancer = subprocess.Popen(command, cwd=cls.folder, stdout=log, stderr=log)

    @classmethod
    def configured(cls, name, listen, changes):
        """The shipped file with these addresses; every one must be in it."""
        text = (BALANCERS / name).read_text()
        for old, new in changes.items():
            if old not in text:
                raise AssertionError(f"{name} has no {old}")
            text = text.replace(old, str(new))
        (cls.folder / name).write_text(text)
        cls.port = listen
        return cls.open_channel(f"127.0.0.1:{listen}")

    @classmethod
    def open_channel(cls, address, *options):
        return grpc.insecure_channel(address, options=[
            ("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 500),
            *options])

    @classmethod
    def probe_once(cls):
        try:
            cls.stub.Generate(harness.chat_request("Hi", stopping=pb.StoppingOptions(max_tokens=1)), timeout=10)
        except grpc.RpcError as error:
            return error
        return None

    @classmethod
    def wait_until(cls, condition, what, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {seconds} s: {what}\n{cls.log()}")
            time.sleep(0.1)

    def list_changed(self):
        """For a balancer that must be told which servers are ready."""

    def running(self):
        return sum(replica.metrics()["tessera_active_requests"] for replica in self.replicas
                   if replica.process.poll() is None)

    def test_1_streams_are_those_of_a_server(self):
        request = harness.chat_request("Sort 7, 3, 9.")
        direct, _ = harness.collect(self.replicas[0].stub.StreamGenerate(request, timeout=30))
        for _ in range(4):
            choices, usage = harness.collect(self.stub.StreamGenerate(request, timeout=30))
            self.assertEqual(choices[0].token_ids, direct[0].token_ids)
            self.assertEqual(usage.completion_tokens, len(direct[0].token_ids))

    def test_2_errors_keep_their_details(self):
        request = harness.chat_request("Hi")
        request.sampling.top_p = 7
        with self.assertRaises(grpc.RpcError) as caught:
            self.stub.Generate(request, timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(harness.violations(caught.exception), ["sampling.top_p"])

    def test_3_deadlines_and_cancelling_reach_the_server(self):
        endless = harness.chat_request("Hi", stopping=pb.StoppingOptions(max_tokens=3000, ignore_eos=True))
        for seconds in (0.2, 0.4, 0.6):
            begin = time.monotonic()
            with self.assertRaises(grpc.RpcError) as caught:
                list(self.stub.StreamGenerate(endless, timeout=seconds))
            self.assertGreater(time.monotonic() - begin, seconds - 0.01)
            # A client on a busy machine may hear of the server's end of the call first, as proxies
            # tell it, and look at its own clock later.
            self.assertIn(caught.exception.code(), (grpc.StatusCode.DEADLINE_EXCEEDED,
                                                    grpc.StatusCode.INTERNAL))
        self.wait_until(lambda: self.running() == 0, "the call past its deadline ends")
        stream = self.stub.StreamGenerate(endless, timeout=30)
        next(stream)
        self.assertEqual(self.running(), 1)
        stream.cancel()
        begin = time.monotonic()
        self.wait_until(lambda: self.running() == 0, "the cancelled call ends")
        self.assertLess(time.monotonic() - begin, 1)

    def test_4_large_messages(self):
        fits = pb.GenerateRequest(text="a " * 1_500_000)
        with self.assertRaises(grpc.RpcError) as caught:
            self.stub.Generate(fits, timeout=30)  # reaches the server, whose context is shorter
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT, caught.exception)
        with self.assertRaises(grpc.RpcError) as caught:
            self.stub.Generate(pb.GenerateRequest(text="a " * 2_500_000), timeout=30)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, caught.exception)

    def test_5_a_drain_loses_nothing_and_the_server_returns(self):
        callers = Callers(self.stub)
        try:
            time.sleep(1)
            old = self.replicas[0]
            code = []
            ending = threading.Thread(target=lambda: code.append(old.end(signal.SIGTERM)))
            ending.start()
            self.wait_until(lambda: old.process.poll() is not None or old.get("/readyz")[0] == 503,
                            "the server drains", 5)
            self.list_changed()
            ending.join()
            self.assertEqual(code, [0])
            old.__enter__()
            self.list_changed()
            self.wait_until(lambda: old.served() > 3, "the server that returned gets calls", 15)
        finally:
            callers.end()
        self.assertEqual(callers.lost, [], self.log())
        self.assertGreater(callers.done, 20)

    def test_6_kill_loses_what_was_under_way_and_no_more(self):
        callers = Callers(self.stub)
        try:
            time.sleep(1)
            self.assertEqual(self.replicas[1].end(signal.SIGKILL), -signal.SIGKILL)
            time.sleep(2)
            lost_at_once = len(callers.lost)
            time.sleep(2)
        finally:
            callers.end()
        print(f"lost by kill -9: {callers.lost}", flush=True)
        # At least one: these clients see what is lost. The next call of a client may meet a
        # connection whose end the balancer has not seen yet.
        self.assertIn(lost_at_once, range(1, 2 * CLIENTS + 1))
        self.assertEqual(len(callers.lost), lost_at_once)
        for lost in callers.lost:
            self.assertRegex(lost, self.ENDS, self.log())
        self.assertGreater(callers.done, 20)

    def test_7_no_server_left_is_said_at_once(self):
        self.assertEqual(self.replicas[0].end(signal.SIGKILL), -signal.SIGKILL)
        self.list_changed()
        time.sleep(3)
        begin = time.monotonic()
        error = self.probe_once()
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE, error)
        self.assertLess(time.monotonic() - begin, 5)


class ClientSide(Balanced, unittest.TestCase):
    ENDS = "^UNAVAILABLE"

    @classmethod
    def start(cls):
        config = json.dumps(json.loads((BALANCERS / "client-side.json").read_text()))
        return cls.open_channel("ipv4:" + ",".join(r.address for r in cls.replicas),
                                ("grpc.service_config", config))


@skip_without("haproxy")
class HaProxy(Balanced, unittest.TestCase):
    ENDS = "^(UNKNOWN|UNAVAILABLE|CANCELLED|INTERNAL|no finish)"

    @classmethod
    def start(cls):
        [listen] = free_ports(1)
        a, b = cls.replicas
        channel = cls.configured("haproxy.cfg", listen, {
            "127.0.0.1:52000": f"127.0.0.1:{listen}",
            "51001 check port 51091": f"51001 check port {a.metrics_port}",
            "51002 check port 51092": f"51002 check port {b.metrics_port}",
            "127.0.0.1:51001": a.address, "127.0.0.1:51002": b.address})
        subprocess.run(["haproxy", "-c", "-q", "-f", "haproxy.cfg"], cwd=cls.folder, check=True)
        cls.run_balancer("haproxy", "-db", "-f", "haproxy.cfg")
        return channel

    def test_2_conversations_find_their_prefixes(self):
        shares = {}
        for named in (False, True):
            before = self.cached()
            asked = [self.turn(f"{named} {talk}", turn, named) for turn in range(4) for talk in range(7)]
            hits, queries = (now - then for now, then in zip(self.cached(), before))
            shares[named] = hits / queries
            self.assertEqual(len(asked), 28)
        print(f"prompt tokens found in a prefix cache: {shares[False]:.0%} by fewest open calls, "
              f"{shares[True]:.0%} by conversation", flush=True)
        self.assertGreater(shares[True], shares[False] + 0.1)

    def turn(self, talk, turn, named):
        request = pb.GenerateRequest(stopping=pb.StoppingOptions(max_tokens=1))
        request.cache.salt = talk.replace(" ", "-")
        for each in range(turn + 1):
            request.chat.messages.add(role="user", content=f"{talk}, {each}: " + "tell me more. " * 8)
        metadata = [("x-conversation", talk)] if named else []
        return self.stub.Generate(request, timeout=30, metadata=metadata)

    def cached(self):
        samples = [replica.metrics() for replica in self.replicas]
        return [sum(sample[f"tessera_prefix_cache_{what}_total"] for sample in samples)
                for what in ("hits", "queries")]


@skip_without("nginx")
class Nginx(Balanced, unittest.TestCase):
    ENDS = "^(INTERNAL|UNAVAILABLE|UNKNOWN|CANCELLED|no finish)"

    @classmethod
    def start(cls):
        [listen] = free_ports(1)
        cls.write_list()
        channel = cls.configured("nginx.conf", listen, {"127.0.0.1:53000": f"127.0.0.1:{listen}"})
        subprocess.run(["nginx", "-t", "-q", "-p", cls.folder, "-c", "nginx.conf"], check=True)
        cls.run_balancer("nginx", "-p", str(cls.folder), "-c", "nginx.conf")
        return channel

    @classmethod
    def write_list(cls):
        ready = [r for r in cls.replicas if r.process.poll() is None and r.get("/readyz")[0] == 200]
        (cls.folder / "upstream.inc").write_text("".join(
            f"server {r.address} max_fails=1 fail_timeout=2s;\n" for r in ready or cls.replicas))

    def list_changed(self):
        self.write_list()
        self.balancer.send_signal(signal.SIGHUP)


class Envoy(Balanced, unittest.TestCase):
    ENDS = "^(INTERNAL|UNAVAILABLE|UNKNOWN|CANCELLED|no finish)"

    @classmethod
    def setUpClass(cls):
        try:
            cls.program = pypi_tools.folder("balancers") / "envoy/_bin/envoy"
        except pypi_tools.Unavailable as reason:
            if os.environ.get("CI") == "true":
                raise
            raise unittest.SkipTest(str(reason))
        super().setUpClass()

    @classmethod
    def start(cls):
        listen, admin = free_ports(2)
        channel = cls.configured("envoy.yaml", listen, {
            "port_value: 54000": f"port_value: {listen}", "port_value: 54090": f"port_value: {admin}",
            "port_value: 51001": f"port_value: {cls.replicas[0].port}",
            "port_value: 51002": f"port_value: {cls.replicas[1].port}"})
        cls.run_balancer(cls.program, "-c", "envoy.yaml", "--concurrency", "1", "--log-level", "warn",
                         "--disable-hot-restart")
        return channel

    def test_4_floods_end_here(self):
        """What Debian's gRPC does not defend itself against (tests/fault/floods_test.py)."""
        pings = http2_client.frame(http2_client.PING, 0, 0, b"12345678") * 10000
        for name, flood in (("resets", http2_client.resets), ("headers", http2_client.endless_headers),
                            ("PING", lambda port: http2_client.repeat(port, pings, 50, reads=False))):
            before = [replica.resident("VmHWM") for replica in self.replicas]
            connection = flood(self.port)
            self.wait_until(lambda: not connection.send(b"") or not connection.drain(),
                            f"Envoy closes the connection: {name}")
            self.assertIsNone(self.probe_once())
            grown = [replica.resident("VmHWM") - size
                     for replica, size in zip(self.replicas, before)]
            self.assertLess(max(grown), 48, name)
            connection.close()


@skip_without("haproxy")
class Connections(unittest.TestCase):
    """A balancer that knows connections only, as a plain Service of Kubernetes does."""

    def served(self, *flags):
        """How many calls of one channel each of two servers got."""
        replicas = [Replica(*flags).__enter__(), Replica(*flags).__enter__()]
        [listen] = free_ports(1)
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "tcp.cfg").write_text(
                "defaults\n mode tcp\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n"
                f"listen calls\n bind 127.0.0.1:{listen}\n balance roundrobin\n"
                + "".join(f" server s{r.port} {r.address}\n" for r in replicas))
            balancer = subprocess.Popen(["haproxy", "-db", "-f", "tcp.cfg"], cwd=folder,
                                        stderr=subprocess.DEVNULL)
            try:
                channel = Balanced.open_channel(f"127.0.0.1:{listen}")
                grpc.channel_ready_future(channel).result(20)
                callers = Callers(harness.pb_grpc.InferenceStub(channel))
                time.sleep(5)
                callers.end()
                channel.close()
                self.assertEqual(callers.lost, [])
                return [replica.served() for replica in replicas]
            finally:
                balancer.kill()
                balancer.wait()
                for replica in replicas:
                    replica.end(signal.SIGKILL)

    def test_connections_that_age_reach_every_server(self):
        self.assertIn(0, self.served())
        self.assertGreater(min(self.served("--max-connection-age", 0.5)), 3)

    def test_calls_outlive_the_connections_age(self):
        with Replica("--max-connection-age", 0.2) as replica:
            request = harness.chat_request("Hi", stopping=pb.StoppingOptions(max_tokens=2500,
                                                                            ignore_eos=True))
            begin = time.monotonic()
            choices, usage = harness.collect(replica.stub.StreamGenerate(request, timeout=60))
            self.assertGreater(time.monotonic() - begin, 0.5)
            self.assertTrue(choices[0].HasField("finish"))
            self.assertEqual(usage.completion_tokens, 2500)


if __name__ == "__main__":
    unittest.main(verbosity=2)
