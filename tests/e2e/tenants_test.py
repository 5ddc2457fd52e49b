"""What a tenant may use, and that no tenant notices another."""
import concurrent.futures
import tempfile
import time
import unittest

import grpc

import http_client
from harness import Server, chat_request
from key_file import Keys, bearer


class TenantsTest(unittest.TestCase):
    """Two tenants: what one does is no business of the other's."""

    def serve(self, limits, *flags):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        keys = Keys(folder.name)
        self.key = {tenant: keys.add(tenant, tenant=tenant) for tenant in ("limited", "other")}
        keys.path.write_text(f"tenants:\n  limited: {{{limits}}}\n  other: {{}}\n" +
                             keys.path.read_text())
        server = Server("--api-keys", keys.path, *flags).__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        return server

    def generate(self, server, tenant, max_tokens=2, **fields):
        request = chat_request("What is 44 + 9809?", **fields)
        request.stopping.max_tokens = max_tokens
        request.stopping.ignore_eos = True
        return server.stub.Generate(request, timeout=60, metadata=bearer(self.key[tenant]))

    def stream(self, server, tenant):
        request = chat_request("Hi")
        request.stopping.max_tokens = 4000
        request.stopping.ignore_eos = True
        stream = server.stub.StreamGenerate(request, metadata=bearer(self.key[tenant]))
        next(stream)
        return stream

    def refused(self, server, limit):
        """The seconds that a refused call is told to wait, over gRPC and over HTTP."""
        with self.assertRaises(grpc.RpcError) as caught:
            self.generate(server, "limited")
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")
        self.assertIn('the tenant "limited" has', caught.exception.details())
        wait = dict(caught.exception.trailing_metadata())["grpc-retry-pushback-ms"]
        reply = http_client.post(
            server.http_port, "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
            Authorization=f"Bearer {self.key['limited']}")
        self.assertEqual(reply.status, 429, reply.body)
        self.assertEqual(reply.error["type"], "RateLimitError")
        self.assertGreaterEqual(int(reply.headers["retry-after"]), 1)
        self.assertGreaterEqual(
            server.metrics()[f'tessera_tenant_refused_total{{limit="{limit}",tenant="limited"}}'], 2)
        self.generate(server, "other")
        return int(wait) / 1000

    def test_requests_per_second(self):
        server = self.serve("requests-per-second: 0.1")
        self.generate(server, "limited")
        wait = self.refused(server, "requests")
        self.assertTrue(5 < wait <= 10, wait)

    def test_tokens_per_minute(self):
        server = self.serve("tokens-per-minute: 60")
        reply = self.generate(server, "limited", max_tokens=100)
        used = reply.usage.prompt_tokens + reply.usage.completion_tokens
        self.assertGreater(used, 100)
        wait = self.refused(server, "tokens")
        self.assertTrue(0.5 < wait <= 30, wait)
        counted = server.metrics()
        for kind, number in (("prompt", reply.usage.prompt_tokens), ("generation", 100)):
            self.assertEqual(
                counted[f'tessera_tenant_tokens_total{{kind="{kind}",tenant="limited"}}'], number)

    def test_concurrent_streams(self):
        server = self.serve("concurrent-streams: 1")
        stream = self.stream(server, "limited")
        self.refused(server, "streams")
        self.assertEqual(server.metrics()['tessera_tenant_open_requests{tenant="limited"}'], 1)
        stream.cancel()
        deadline = time.monotonic() + 20
        while server.metrics()['tessera_tenant_open_requests{tenant="limited"}'] > 0:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        for _ in range(10):  # one after the other is one at a time
            self.generate(server, "limited")
        self.assertEqual(server.metrics()['tessera_tenant_requests_total{tenant="limited"}'], 11)

    def test_priority_is_the_tenants(self):
        server = self.serve("priority: 5", "--max-num-seqs", 1)
        holder = self.stream(server, "other")
        order = []

        def ask(tenant):
            self.generate(server, tenant, priority=-9 if tenant == "limited" else 0)
            order.append(tenant)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            tasks = []
            for number, tenant in enumerate(("limited", "other"), 1):
                tasks.append(pool.submit(ask, tenant))
                deadline = time.monotonic() + 20
                while server.metrics()["tessera_num_requests_waiting"] < number:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
            holder.cancel()
            for task in tasks:
                task.result()
        self.assertEqual(order, ["other", "limited"])

    def test_tenants_share_no_prefix_whatever_their_clients_say(self):
        server = self.serve("")
        text = "Add these numbers and explain every step of it: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11."

        def cached(tenant, salt):
            request = chat_request(text)
            request.stopping.max_tokens = 2
            request.cache.salt = salt
            return server.stub.Generate(request, timeout=60,
                                        metadata=bearer(self.key[tenant])).usage.cached_tokens

        for salt in ("", "same"):
            self.assertEqual(cached("limited", salt), 0)
            self.assertGreater(cached("limited", salt), 0)
            self.assertEqual(cached("other", salt), 0)
            self.assertGreater(cached("other", salt), 0)


if __name__ == "__main__":
    unittest.main()
