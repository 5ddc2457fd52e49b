"""Floods of HTTP/2 frames, connections that say nothing and bodies that never end, on every port.

Each flood runs against its own server while a canary calls. A row says what the server grew by while it
lasted and after it, and what the canary felt. gRPC of Debian 12 bounds neither resets nor CONTINUATION
(docs/security.md): what such a client costs is measured here, and that it costs others little.
"""
import contextlib
import pathlib
import select
import socket
import struct
import sys
import tempfile
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "e2e")]

import http2_client as h2  # noqa: E402
from harness import Server, chat_request, grpc, pb, pb_grpc  # noqa: E402
from key_file import Keys  # noqa: E402

SOON = 15  # seconds in which the server has given back what a flood took
LEFT = 48  # MiB that may stay


class Canary:
    """Short calls, one after the other, until it is stopped."""

    def __init__(self, server):
        # Its own connection: a flood must not share it.
        self.channel = grpc.insecure_channel(server.address,
                                             options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = pb_grpc.InferenceStub(self.channel)
        self.request = chat_request("Hi")
        self.request.stopping.max_tokens = 1
        self.stub.Generate(self.request)
        self.seconds, self.failed = [], []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                self.stub.Generate(self.request, timeout=20)
            except grpc.RpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
            self.seconds.append(time.monotonic() - begun)
            time.sleep(0.01)

    def end(self):
        self.stop.set()
        self.thread.join()
        self.channel.close()


class HalfMessages:
    """Calls that send nearly all of a large message, as fast as the windows allow, and stop."""

    def __init__(self, port, calls, size=7 << 20):
        self.connection = h2.Connection(port)
        self.streams = range(1, 2 * calls, 2)
        self.reset = set()
        self.initial = 65535
        self.window = dict.fromkeys([0, *self.streams], self.initial)
        self.left = dict.fromkeys(self.streams, size)
        self.buffer = b""
        prefix = b"\0" + struct.pack(">I", size + 100)
        for stream in self.streams:
            self.connection.send(h2.begin_call(stream))
            self.send(stream, prefix)

    def send(self, stream, data):
        for each in (0, stream):
            self.window[each] -= len(data)
        self.connection.send(h2.frame(h2.DATA, 0, stream, data))

    def listen(self):
        ready = select.select([self.connection.socket], [], [], 0.005)[0]
        data = self.connection.socket.recv(1 << 16) if ready else b""
        if ready and not data:
            self.connection.alive = False
        self.buffer += data
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                break
            kind, flags = self.buffer[3:5]
            stream = int.from_bytes(self.buffer[5:9], "big")
            self.heard(kind, flags, stream, self.buffer[9:9 + length])
            self.buffer = self.buffer[9 + length:]

    def heard(self, kind, flags, stream, payload):
        if kind == h2.WINDOW_UPDATE and stream in self.window:
            self.window[stream] += int.from_bytes(payload, "big")
        elif kind == h2.RST_STREAM:
            self.left[stream] = 0
            self.reset.add(stream)
        elif kind == h2.PING and not flags & h2.ACK:
            self.connection.send(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.SETTINGS and not flags & h2.ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    for each in self.streams:
                        self.window[each] += value - self.initial
                    self.initial = value
            self.connection.send(h2.frame(h2.SETTINGS, h2.ACK, 0))

    def run(self, seconds, until_sent=True):
        end = time.monotonic() + seconds
        while self.connection.alive and time.monotonic() < end and \
                not (until_sent and not any(self.left.values())):
            with contextlib.suppress(OSError):
                self.listen()
            for stream in self.streams:
                size = min(self.left[stream], self.window[stream], self.window[0], 16384)
                if size > 0:
                    self.send(stream, b"x" * size)
                    self.left[stream] -= size


def half_messages(server):
    clients = [HalfMessages(server.port, 60) for _ in range(3)]
    threads = [threading.Thread(target=client.run, args=(8,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [client.connection for client in clients]


def silent(port_of, count=400, first=b""):
    def flood(server):
        sockets = []
        for _ in range(count):
            sockets.append(socket.create_connection(("127.0.0.1", port_of(server))))
            with contextlib.suppress(OSError):
                sockets[-1].sendall(first)
        time.sleep(1)
        return sockets
    return flood


class FloodsTest(unittest.TestCase):
    def flood(self, name, flood, peak, slowest=1.0, may_fail=False, takes_places=False):
        """`peak`: MiB that the server may grow by while it lasts; `slowest`: seconds of a canary's
        call; `takes_places`: the canary may be asked to come again."""
        with Server("--threads", "1") as server:
            canary = Canary(server)
            time.sleep(0.3)
            before = server.resident()
            begun = time.monotonic()
            clients = flood(server)
            took = time.monotonic() - begun
            time.sleep(0.5)
            highest = server.resident("VmHWM") - before
            for client in clients:
                client.close()
            end = time.monotonic() + SOON
            while (left := server.resident() - before) > LEFT and time.monotonic() < end:
                time.sleep(0.1)
            canary.end()
            calls = sorted(canary.seconds)
            print(f"{name:22} {took:5.1f} s, grew by {highest:4.0f} MiB, {left:3.0f} left; canary "
                  f"p50 {calls[len(calls) // 2] * 1e3:4.1f} max {calls[-1] * 1e3:5.1f} ms", flush=True)
            self.assertLess(highest, peak)
            self.assertLess(left, LEFT)
            if not may_fail:
                self.assertEqual([failure for failure in canary.failed if not (
                    takes_places and failure.startswith("RESOURCE_EXHAUSTED"))], [])
                self.assertLess(calls[-1], slowest)
            server.stub.Generate(canary.request, timeout=5)
            self.assertEqual(server.wait_idle().active_requests, 0)
            self.assertEqual(server.get("/readyz")[0], 200)

    def test_resets(self):
        """Others wait until gRPC has worked through them: until then each has a place."""
        for name, reads in (("resets", True), ("resets, not reading", False)):
            self.flood(name, lambda server, reads=reads: [h2.resets(server.port, reads=reads)], 700,
                       slowest=10, takes_places=True)

    def test_frames_without_content(self):
        def many(kind, payload=b"", stream=0, reads=True, first=b""):
            block = h2.frame(kind, 0, stream, payload) * 10000
            return lambda server: [h2.repeat(server.port, block, 50, reads, first)]
        self.flood("empty DATA", many(h2.DATA, stream=1, first=h2.begin_call(1)), 32)
        self.flood("SETTINGS", many(h2.SETTINGS), 32)
        self.flood("SETTINGS, not reading", many(h2.SETTINGS, reads=False), 96)
        self.flood("PING", many(h2.PING, b"12345678"), 160)
        self.flood("PING, not reading", many(h2.PING, b"12345678", reads=False), 160)
        self.flood("WINDOW_UPDATE", many(h2.WINDOW_UPDATE, b"\0\0\0\1"), 32)
        self.flood("PRIORITY", many(h2.PRIORITY, b"\0\0\0\0\1", stream=3), 32)

    def test_headers_without_end(self):
        self.flood("16 MiB of CONTINUATION", lambda server: [h2.endless_headers(server.port)], 128)

    def test_messages_without_end(self):
        """More than the backstop of 512 MiB: gRPC drops streams then, perhaps the canary's too."""
        self.flood("180 half messages", half_messages, 900, may_fail=True)

    def test_silent_connections(self):
        for name in ("port", "http_port", "metrics_port"):
            self.flood(f"silent, {name}", silent(lambda server, name=name: getattr(server, name)), 64)

    def test_beginnings(self):
        self.flood("slow head, HTTP", silent(lambda server: server.http_port, first=b"POST /v1/"), 64)
        self.flood("slow body, HTTP", silent(
            lambda server: server.http_port,
            first=b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: 1000000\r\n\r\n{"), 64)
        self.flood("garbage, gRPC", silent(lambda server: server.port, first=bytes(range(256))), 64)
        self.flood("garbage, HTTP", silent(lambda server: server.http_port, first=bytes(range(256))), 64)


class HalfMessagesTest(unittest.TestCase):
    """A call is known from its headers on: it counts, and its message must come."""

    def test_they_count_and_end(self):
        with Server("--threads", "1", "--stream-stall-timeout", "6") as server:
            client = HalfMessages(server.port, 60)
            client.run(1)
            self.assertEqual(server.stub.GetLoad(pb.GetLoadRequest()).active_requests, 60)
            client.run(3.5, until_sent=False)
            self.assertEqual(len(client.reset), 60 - 32, "the oldest beyond 32 go after 2 s")
            client.run(5, until_sent=False)
            self.assertEqual(len(client.reset), 60, "none is waited for longer than 6 s")
            self.assertEqual(server.wait_idle().active_requests, 0)
            ends = {code: server.metrics()[f'tessera_requests_total{{code="{code}",method="Generate"}}']
                    for code in ("RESOURCE_EXHAUSTED", "ABORTED")}
            self.assertEqual(ends, {"RESOURCE_EXHAUSTED": 28, "ABORTED": 32})
            client.connection.close()

    def test_they_take_the_places_of_requests(self):
        with Server("--threads", "1", "--max-concurrent-requests", "8") as server:
            client = HalfMessages(server.port, 8, size=100)
            client.run(0.5)
            with self.assertRaises(grpc.RpcError) as refused:
                server.stub.Generate(chat_request("Hi"), timeout=10)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            client.connection.close()
            server.wait_idle()
            server.stub.Generate(chat_request("Hi"), timeout=10)

    def test_a_drain_does_not_wait_for_them(self):
        with Server("--threads", "1") as server:
            client = HalfMessages(server.port, 4)
            client.run(1)
            begun = time.monotonic()
            server.process.terminate()
            self.assertEqual(server.process.wait(20), 0)
            self.assertLess(time.monotonic() - begun, 10)
            client.connection.close()

    def test_strangers_send_nothing(self):
        keys = Keys(self.enterContext(tempfile.TemporaryDirectory()))
        keys.add("writer", "generate")
        with Server("--threads", "1", "--api-keys", keys.path) as server:
            before = server.resident()
            client = HalfMessages(server.port, 60)
            client.run(2)
            client.connection.close()
            self.assertEqual(len(client.reset), 60)
            self.assertLess(server.resident("VmHWM") - before, 32, "MiB of 420")


if __name__ == "__main__":
    unittest.main()
