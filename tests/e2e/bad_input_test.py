"""What clients get wrong, and worse: each gets a clear error, and nobody else notices."""
import math
import resource
import socket
import threading
import time
import unittest

import grpc

from harness import HostileTest, Server, chat_request, collect, pb, pb_grpc, violations

EXTREMES = [0, 1, -1, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, math.nan, math.inf, -math.inf]
OK_OR_REFUSED = (None, grpc.StatusCode.INVALID_ARGUMENT)

# Every numeric field: path, then the values that must be refused.
INTEGERS = {
    "n": lambda v: not 1 <= v <= 16,
    "priority": lambda v: not -1000 <= v <= 1000,
    "sampling.top_k": lambda v: not -1 <= v <= 2**31 - 1,
    "sampling.seed": lambda v: False,
    "stopping.max_tokens": lambda v: v < 1 or v > 4096,
    "stopping.min_tokens": lambda v: v < 0 or v > 16,
    "response.logprobs": lambda v: not 0 <= v <= 20,
    "response.prompt_logprobs": lambda v: not 0 <= v <= 20,
    "reasoning.max_thinking_tokens": lambda v: not 0 <= v <= 2**31 - 1,
    "reasoning.min_answer_tokens": lambda v: v < 0 or v > 16,
}
DOUBLES = {
    "sampling.temperature": lambda v: not 0 <= v <= 2,
    "sampling.top_p": lambda v: not 0 < v <= 1,
    "sampling.min_p": lambda v: not 0 <= v <= 1,
    "sampling.repetition_penalty": lambda v: not 0.01 <= v <= 100,
    "sampling.presence_penalty": lambda v: not -2 <= v <= 2,
    "sampling.frequency_penalty": lambda v: not -2 <= v <= 2,
}


def set_field(message, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, last, value)


class BadInputTest(HostileTest):
    def code_of(self, call):
        try:
            call()
        except grpc.RpcError as error:
            return error.code(), violations(error)
        return None, []

    def test_boundary_grid(self):
        for fields, values in ((INTEGERS, EXTREMES), (DOUBLES, FLOATS)):
            for path, refused in fields.items():
                for value in values:
                    with self.subTest(field=path, value=value):
                        request = chat_request("Hi")
                        request.stopping.max_tokens = 16
                        set_field(request, path, value)
                        code, fields_named = self.code_of(
                            lambda: self.server.stub.Generate(request))
                        if refused(value):
                            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
                            self.assertIn(path, fields_named)
                        else:
                            self.assertIsNone(code)

    def test_token_ids_out_of_range(self):
        for ids in ([-1], [1728], [2**31], [2**63 - 1], [5, 1728, 6]):
            request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))
            code, _ = self.code_of(lambda: self.server.stub.Generate(request))
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)

    def test_prompts_that_cannot_fit(self):
        for request in (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5] * 4096)),
                        pb.GenerateRequest(text="word " * 100000),
                        pb.GenerateRequest(text=""),
                        pb.GenerateRequest()):
            code, _ = self.code_of(lambda: self.server.stub.Generate(request))
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)

    def test_unknown_model(self):
        code, _ = self.code_of(
            lambda: self.server.stub.Generate(chat_request("Hi", model="gpt-5")))
        self.assertEqual(code, grpc.StatusCode.NOT_FOUND)

    def test_message_over_four_mebibytes(self):
        request = pb.GenerateRequest(text="x" * (4 << 20))
        before = self.server.metrics()
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.stub.Generate(request)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(violations(caught.exception), ["request"])
        self.assertIn("--max-message-size", caught.exception.details())
        trailers = dict(caught.exception.trailing_metadata())
        self.assertNotIn("grpc-retry-pushback-ms", trailers)  # later it is as large
        after = self.server.metrics()
        for series in ('tessera_requests_total{code="RESOURCE_EXHAUSTED",method="Generate"}',
                       'tessera_rejected_total{reason="invalid"}'):
            self.assertEqual(after[series], before.get(series, 0) + 1)
        request.text = "x" * (9 << 20)  # beyond what gRPC lets through
        code, _ = self.code_of(lambda: self.server.stub.Generate(request))
        self.assertEqual(code, grpc.StatusCode.RESOURCE_EXHAUSTED)

    def test_what_cannot_be_drawn_names_its_field(self):
        request = pb.GenerateRequest(text="Hi")
        request.constraints.allowed_token_ids.append(5)
        request.stopping.stop_token_ids.append(5)
        request.stopping.min_tokens = 3
        self.assertEqual(self.code_of(lambda: self.server.stub.Generate(request)),
                         (grpc.StatusCode.INVALID_ARGUMENT, ["constraints"]))

    def test_unknown_method_and_garbage(self):
        for method, body in (("/tessera.v1.Inference/Nope", b""),
                             ("/nope.Service/Generate", b""),
                             ("/tessera.v1.Inference/Generate", b"\xff\xff\xff\xff"),
                             ("/tessera.v1.Inference/Generate", b"\x1a\x02\xff\xfe")):
            call = self.server.channel.unary_unary(method)
            with self.assertRaises(grpc.RpcError) as caught:
                call(body, timeout=10)
            error = caught.exception
            if body:
                self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
                self.assertEqual(violations(error), ["request"])
            else:
                self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED)
                self.assertIn(f"no method {method}; this server has tessera.v1.Inference",
                              error.details())

    def test_half_open_connections(self):
        sockets = [socket.create_connection(("127.0.0.1", self.server.port)) for _ in range(32)]
        sockets[0].sendall(b"PRI * HTTP/2.0\r\n")
        sockets[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
        sockets[2].sendall(bytes(range(256)))
        self.assertEqual(self.server.stub.Generate(self.canary).choices[0].token_ids, self.expected)
        for s in sockets:
            s.close()

    def test_silent_connections_to_the_metrics_port(self):
        sockets = [socket.create_connection(("127.0.0.1", self.server.metrics_port))
                   for _ in range(24)]
        sockets[0].sendall(b"GET /hea")
        begun = time.monotonic()
        self.assertEqual(self.server.get("/healthz")[0], 200)
        self.assertLess(time.monotonic() - begun, 5)
        for s in sockets:
            s.close()

    def test_more_connections_than_the_soft_limit_of_files(self):
        """Silent connections must not keep others, nor the health page, out."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        try:
            with Server() as server:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                sockets = [socket.create_connection(("127.0.0.1", server.port))
                           for _ in range(300)]
                stub = server.stub  # connects now
                self.assertEqual(stub.Generate(self.canary, timeout=5).choices[0].token_ids,
                                 self.expected)
                self.assertEqual(server.get("/healthz")[0], 200)
                for s in sockets:
                    s.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_deadline(self):
        request = chat_request("Hi")
        request.stopping.ignore_eos = True
        request.stopping.max_tokens = 4000
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.stub.Generate(request, timeout=0.05)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_cancels_at_any_time(self):
        request = chat_request("Hi")
        request.stopping.ignore_eos = True
        request.stopping.max_tokens = 2000
        for round_number in range(40):
            stream = self.server.stub.StreamGenerate(request)
            for _, _ in zip(range(round_number % 8), stream):
                pass
            stream.cancel()

    def test_client_that_never_reads(self):
        request = chat_request("Hi", n=16)
        request.stopping.ignore_eos = True
        request.stopping.max_tokens = 200
        request.response.logprobs = 20
        # Without these options the library itself reads ahead, megabytes of it.
        channel = grpc.insecure_channel(self.server.address, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 65535)])
        before = self.server.metrics()["tessera_slow_reader_evictions_total"]
        lazy = [pb_grpc.InferenceStub(channel).StreamGenerate(request) for _ in range(3)]
        self.assertEqual(self.server.stub.Generate(self.canary).choices[0].token_ids, self.expected)
        end = time.monotonic() + 60
        while True:
            metrics = self.server.metrics()
            if metrics["tessera_slow_reader_evictions_total"] - before == 3:
                break
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.assertEqual(metrics["tessera_stream_buffer_bytes"], 0)
        for stream in lazy:
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in stream:
                    pass
            self.assertEqual(caught.exception.code(), grpc.StatusCode.ABORTED)
        channel.close()

    def test_abort(self):
        request = chat_request("Hi", request_id="victim")
        request.stopping.ignore_eos = True
        request.stopping.max_tokens = 3000
        stream = self.server.stub.StreamGenerate(request)
        next(stream)
        self.assertTrue(self.server.stub.Abort(pb.AbortRequest(request_id="victim")).found)
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in stream:
                pass
        self.assertEqual(caught.exception.code(), grpc.StatusCode.ABORTED)
        self.assertFalse(self.server.stub.Abort(pb.AbortRequest(request_id="victim")).found)

    def test_one_bad_request_among_good_ones(self):
        bad = chat_request("Hi")
        bad.sampling.top_p = 7
        failures = []

        def client(index):
            if index % 2:
                code, _ = self.code_of(lambda: self.server.stub.Generate(bad))
                if code != grpc.StatusCode.INVALID_ARGUMENT:
                    failures.append(code)
            else:
                choices, _ = collect(self.server.stub.StreamGenerate(self.canary))
                if choices[0].token_ids != self.expected:
                    failures.append(choices[0])

        threads = [threading.Thread(target=client, args=(i,)) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


if __name__ == "__main__":
    unittest.main()
