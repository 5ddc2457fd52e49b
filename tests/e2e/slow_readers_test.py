"""Clients that do not read: they count, they are told, and they do not stay."""
import time
import unittest

import grpc

from harness import Server, chat_request, collect, pb, pb_grpc

STALL = 3.0
LIMIT = 3


def long_request():
    """More than a connection's window holds, less than the server keeps for one stream."""
    request = chat_request("Count: 1 2 3")
    request.stopping.ignore_eos = True
    request.stopping.max_tokens = 2000
    return request


class StalledStreamsTest(unittest.TestCase):
    def setUp(self):
        self.server = Server("--stream-stall-timeout", STALL, "--max-concurrent-requests", LIMIT,
                             "--max-stream-buffer", "64MiB").__enter__()
        self.channels = []

    def tearDown(self):
        for channel in self.channels:
            channel.close()
        self.server.__exit__(None, None, None)

    def unread(self, count):
        """Streams on connections of their own, with the smallest windows."""
        streams = []
        for _ in range(count):
            self.channels.append(grpc.insecure_channel(self.server.address, options=[
                ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", 65535)]))
            streams.append(pb_grpc.InferenceStub(self.channels[-1]).StreamGenerate(long_request()))
        return streams

    def evictions(self):
        return self.server.metrics()["tessera_slow_reader_evictions_total"]

    def await_that(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def active(self):
        return self.server.stub.GetLoad(pb.GetLoadRequest()).active_requests

    def test_count_until_they_are_gone_and_hear_of_it(self):
        streams = self.unread(LIMIT)
        self.await_that(lambda: self.active() == LIMIT)
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.stub.Generate(chat_request("Hi"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.await_that(lambda: self.evictions() == LIMIT)
        for stream in streams:
            with self.assertRaises(grpc.RpcError) as caught:
                collect(stream)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.ABORTED)
            self.assertIn("does not read", caught.exception.details())
        self.server.wait_idle(10)
        self.server.stub.Generate(chat_request("Hi"))

    def test_who_never_reads_does_not_stay(self):
        streams = self.unread(2)
        self.await_that(lambda: self.active() == 2)
        self.await_that(lambda: self.active() == 0)
        self.assertEqual(self.evictions(), 2)
        self.assertEqual(self.server.wait_idle().kv_blocks_used, 0)
        self.assertEqual(len(streams), 2)

    def test_who_reads_slowly_is_served(self):
        choices = []
        for number, message in enumerate(self.server.stub.StreamGenerate(long_request())):
            choices.append(message)
            if number % 200 == 0:
                time.sleep(STALL / 4)
        self.assertTrue(choices[-1].choices[0].HasField("finish"))
        self.assertEqual(self.evictions(), 0)


if __name__ == "__main__":
    unittest.main()
