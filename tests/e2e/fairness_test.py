"""One tenant floods the server; what another loses is counted in steps, not in seconds."""
import tempfile
import threading
import unittest

import grpc

from harness import Server, chat_request
from key_file import Keys, bearer

SEATS = 4
ANSWER = 60  # tokens of the steady tenant's answers
FLOOD_ANSWER = 600
FLOOD = 40  # streams that the flood keeps open


class FairnessTest(unittest.TestCase):
    """The flood is one tenant's, the steady work another's."""

    def serve(self, *flags):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        keys = Keys(folder.name)
        self.key = {name: keys.add(name, tenant=name) for name in ("flood", "steady")}
        keys.add("ops", "metrics", tenant="flood")
        server = Server("--api-keys", keys.path, "--max-num-seqs", SEATS, *flags).__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        return server

    def stream(self, server, tenant, max_tokens, **fields):
        request = chat_request("Count on from 1, 2, 3.", **fields)
        request.stopping.max_tokens = max_tokens
        request.stopping.ignore_eos = True
        return server.stub.StreamGenerate(request, timeout=120, metadata=bearer(self.key[tenant]))

    def flood(self, server):
        """Keeps FLOOD streams open until the returned event is set."""
        stop = threading.Event()
        self.open_streams = set()

        def client():
            while not stop.is_set():
                stream = self.stream(server, "flood", FLOOD_ANSWER)
                self.open_streams.add(stream)
                try:
                    for _ in stream:
                        pass
                except grpc.RpcError:
                    stop.wait(0.05)
                self.open_streams.discard(stream)

        threads = [threading.Thread(target=client) for _ in range(FLOOD)]

        def end():
            stop.set()
            for stream in list(self.open_streams):
                stream.cancel()
            for thread in threads:
                thread.join()

        self.addCleanup(end)
        for thread in threads:
            thread.start()
        self.wait_for(server, "tessera_num_requests_waiting", FLOOD - SEATS)

    def wait_for(self, server, name, least):
        for _ in range(600):
            if server.metrics()[name] >= least:
                return
            threading.Event().wait(0.05)
        self.fail(f"{name} stays below {least}")

    def steps(self, server):
        return server.metrics()["tessera_iteration_tokens_count"]

    def ask(self, server):
        """Steps of the server until the first token, and until the end."""
        before = self.steps(server)
        stream = self.stream(server, "steady", ANSWER)
        next(stream)
        first = self.steps(server)
        for _ in stream:
            pass
        return first - before, self.steps(server) - before

    def test_a_flood_costs_another_tenant_a_few_steps(self):
        server = self.serve()
        self.flood(server)
        # As one tenant it would wait for a tenth of the queue and more: thousands of steps.
        waits, lasts = zip(*(self.ask(server) for _ in range(8)))
        print("steps to the first token:", waits, "to the end:", lasts)
        self.assertLess(sorted(waits)[4], ANSWER)
        self.assertLess(sorted(lasts)[4], 3 * ANSWER)
        self.assertGreaterEqual(server.metrics()["tessera_num_requests_waiting"], FLOOD - SEATS)


if __name__ == "__main__":
    unittest.main()
