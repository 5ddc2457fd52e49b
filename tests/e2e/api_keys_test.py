"""Who may call: API keys, their scopes, and their file that changes while the server runs."""
import pathlib
import signal
import tempfile
import time
import unittest

import http_client
from harness import NANO, Server, chat_request, pb, run_tessera
from key_file import Keys, bearer, code_of


class KeysTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.keys = Keys(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def file(self, name):
        return pathlib.Path(self.folder.name) / name

    def test_who_may_call_what(self):
        by_scope = {"generate": self.keys.add("gen"), "admin": self.keys.add("adm", "admin"),
                    "metrics": self.keys.add("met", "metrics"), None: "tsk-unknown"}
        with Server("--api-keys", self.keys.path) as server:
            stub, prompt = server.stub, chat_request("Hi")
            prompt.stopping.max_tokens = 2
            calls = {
                "generate": [(stub.Generate, prompt), (stub.StreamGenerate, prompt),
                             (stub.Tokenize, pb.TokenizeRequest(text="a")),
                             (stub.Detokenize, pb.DetokenizeRequest(token_ids=[1]))],
                "generate admin metrics": [(stub.GetModelInfo, pb.GetModelInfoRequest())],
                "admin metrics": [(stub.GetLoad, pb.GetLoadRequest()),
                                  (stub.GetServerInfo, pb.GetServerInfoRequest())],
                "admin": [(stub.Abort, pb.AbortRequest(request_id="none"))]}
            for scopes, group in calls.items():
                for call, request in group:
                    self.assertEqual(code_of(call, request), "UNAUTHENTICATED")
                    for scope, key in by_scope.items():
                        allowed = scope is not None and scope in scopes.split()
                        refused = "PERMISSION_DENIED" if scope else "UNAUTHENTICATED"
                        self.assertEqual(code_of(call, request, metadata=bearer(key)),
                                         "OK" if allowed else refused, (scopes, scope))
            routes = {
                "generate": [("POST", "/v1/chat/completions",
                              {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
                             ("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2}),
                             ("POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
                             ("POST", "/tokenize", {"prompt": "a"})],
                "generate admin metrics": [("GET", "/v1/models", None), ("GET", "/version", None)],
                "admin metrics": [("GET", "/load", None)]}
            for scopes, group in routes.items():
                for method, path, body in group:
                    reply = http_client.request(server.http_port, method, path, body)
                    self.assertEqual(reply.status, 401, path)
                    self.assertEqual(reply.headers["www-authenticate"], "Bearer")
                    self.assertEqual(reply.error["type"], "AuthenticationError")
                    for scope, key in by_scope.items():
                        for headers in ({"Authorization": f"bearer {key}"}, {"x-api-key": key}):
                            reply = http_client.request(server.http_port, method, path, body,
                                                        headers)
                            allowed = scope is not None and scope in scopes.split()
                            self.assertEqual(reply.status,
                                             200 if allowed else 403 if scope else 401,
                                             (path, scope, reply.body[:200]))
                            if scope and not allowed:
                                self.assertEqual(reply.error["type"], "PermissionDeniedError")
            # Probes and health need none.
            self.assertEqual(http_client.request(server.http_port, "GET", "/health").status, 200)
            self.assertEqual(server.get("/readyz")[0], 200)
            counted = server.metrics()
            for reason in ("missing", "unknown", "forbidden"):
                self.assertGreater(
                    counted[f'tessera_auth_failures_total{{reason="{reason}"}}'], 5)
            self.assertGreater(
                counted['tessera_requests_total{code="UNAUTHENTICATED",method="Generate"}'], 1)

    def test_commands_show_keys(self):
        self.keys.add("gen")
        with Server("--api-keys", self.keys.path) as server:
            address, key = f"127.0.0.1:{server.port}", self.file("gen.key")
            ask = ("client", address, "--chat", "Hi", "--max-tokens", 2)
            self.assertIn("wants an API key", run_tessera(*ask, check=False).stderr)
            run_tessera(*ask, "--api-key-file", key)
            bench = run_tessera("bench", "serve", address, "--api-key-file", key, "--num-requests",
                                2, "--concurrency", 1, "--input-len", 4, "--output-len", 2)
            self.assertIn(" 0 failed", bench.stdout)
            run_tessera("chat", address, "--api-key-file", key, "--max-tokens", 2, stdin="Hi\n")
            empty = self.file("empty.key")
            empty.write_text("\n")
            for file, words in ((empty, "holds no API key"), (self.file("none"), "none")):
                done = run_tessera(*ask, "--api-key-file", file, check=False)
                self.assertIn("--api-key-file: ", done.stderr)
                self.assertIn(words, done.stderr)

    def test_a_stranger_is_refused_before_the_body_is_read(self):
        self.keys.add("gen")
        with Server("--api-keys", self.keys.path) as server:
            head = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n"
                    b"Expect: 100-continue\r\n\r\n")
            reply = http_client.raw(server.http_port, head)
            self.assertTrue(reply.startswith(b"HTTP/1.1 401 "), reply[:200])
            # Not even what no parser accepts is looked at.
            rubbish = b"\xff" * 200_000
            generate = server.channel.unary_unary("/tessera.v1.Inference/Generate")
            self.assertEqual(code_of(generate, rubbish), "UNAUTHENTICATED")
            self.assertEqual(code_of(generate, rubbish, metadata=bearer("x")), "UNAUTHENTICATED")

    def test_keys_come_and_go_without_a_restart(self):
        first = self.keys.add("first")
        with Server("--api-keys", self.keys.path) as server:
            def call(key):
                return code_of(server.stub.GetModelInfo, pb.GetModelInfoRequest(),
                               metadata=bearer(key))

            def wait_for(key, code):
                deadline = time.monotonic() + 20
                while call(key) != code:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)

            second = self.keys.add("second")
            wait_for(second, "OK")
            run_tessera("keys", "remove", self.keys.path, "--name", "first")
            wait_for(first, "UNAUTHENTICATED")
            # Damaged, readable by everybody, gone: what was there stays good.
            text = self.keys.path.read_text()
            self.keys.path.write_text(text[:len(text) // 2])
            self.wait_for_log(server, "stays in use")
            self.keys.path.write_text(text)
            self.keys.path.chmod(0o644)
            self.wait_for_log(server, "mode 0644")
            self.keys.path.unlink()
            self.wait_for_log(server, "keys.yaml: ")
            self.assertEqual(call(second), "OK")
            self.keys.path.write_text(text)
            self.keys.path.chmod(0o600)
            server.process.send_signal(signal.SIGHUP)
            third = self.keys.add("third")
            wait_for(third, "OK")
            # Signals are no reason to stop.
            self.assertEqual(server.get("/readyz")[0], 200)
            listed = run_tessera("keys", "list", self.keys.path).stdout
            self.assertEqual([line.split("\t")[0] for line in listed.splitlines()],
                             ["second", "third"])
            for key in (first, second, third):
                self.assertNotIn(key, listed + server.output() + self.keys.path.read_text())

    def wait_for_log(self, server, words):
        deadline = time.monotonic() + 20
        while words not in server.output():
            self.assertLess(time.monotonic(), deadline, words)
            time.sleep(0.05)

    def test_bad_files_and_open_servers_do_not_start(self):
        self.keys.add("gen")
        text = self.keys.path.read_text()
        cut, no_tenant, wrong, open_file = map(self.file, ("cut", "no_tenant", "wrong", "open"))
        cut.write_text(text[:len(text) // 2])
        no_tenant.write_text(text.replace("    tenant: \"acme\"\n", ""))
        wrong.write_text(text.replace("tenant:", "tenat:"))
        open_file.write_text(text)
        for file in (cut, no_tenant, wrong):
            file.chmod(0o600)
        open_file.chmod(0o644)
        for options, words in (
                (("--api-keys", cut), f"--api-keys: {cut}: "),
                (("--api-keys", no_tenant), "keys[0]: has no tenant"),
                (("--api-keys", wrong), 'unknown field "tenat"; did you mean "tenant"?'),
                (("--api-keys", open_file), "everybody on this machine can read or write it"),
                (("--api-keys", self.file("none")), f"--api-keys: {self.file('none')}"),
                (("--host", "0.0.0.0"), "--insecure")):
            done = run_tessera("serve", NANO, "--port", 0, "--metrics-port", 0, *options,
                               check=False, timeout=60)
            self.assertNotEqual(done.returncode, 0, options)
            self.assertIn(words, done.stderr)
        for options in (("--api-keys", self.keys.path), ("--insecure",)):
            with Server("--host", "0.0.0.0", *options) as server:
                self.assertEqual(server.get("/readyz")[0], 200)


class LogTest(unittest.TestCase):
    def test_no_key_prompt_or_output_is_logged(self):
        """Whatever is asked, refused, cut off or ended, at the most talkative level."""
        with tempfile.TemporaryDirectory() as folder:
            keys = Keys(folder)
            key = keys.add("gen", "generate", "admin")
            secret = "zyx-the-secret-prompt-wvu"
            with Server("--api-keys", keys.path, "--log-level", "debug") as server:
                request = chat_request(f"Repeat: {secret}")
                request.stopping.max_tokens = 24
                outputs = [server.stub.Generate(request, metadata=bearer(key)).choices[0].text]
                stream = server.stub.StreamGenerate(request, metadata=bearer(key))
                next(stream)
                stream.cancel()
                guesses = ["tsk-wrong-key-one", "tsk-wrong-key-two"]
                self.assertEqual(code_of(server.stub.Generate, request,
                                         metadata=bearer(guesses[0])), "UNAUTHENTICATED")
                bad = chat_request(secret, n=99)
                self.assertEqual(code_of(server.stub.Generate, bad, metadata=bearer(key)),
                                 "INVALID_ARGUMENT")
                bad = chat_request(secret)
                bad.constraints.regex = f"({secret}"
                code_of(server.stub.Generate, bad, metadata=bearer(key))
                body = {"messages": [{"role": "user", "content": secret}], "max_tokens": 24}
                for headers in ({"Authorization": f"Bearer {key}"},
                                {"x-api-key": guesses[1]}, {"Authorization": f"Basic {key}"}):
                    reply = http_client.request(server.http_port, "POST", "/v1/chat/completions",
                                                body, headers)
                    if reply.status == 200:
                        outputs.append(reply.json()["choices"][0]["message"]["content"] or "")
                http_client.request(server.http_port, "POST", "/v1/completions",
                                    {"prompt": secret, "max_tokens": -1},
                                    {"Authorization": f"Bearer {key}"})
                http_client.raw(server.http_port,
                                f"GET /{secret} HTTP/1.1\r\nHost: {secret}\r\nConnection: close\r\n\r\n".encode())
                keys.path.write_text(keys.path.read_text().replace("sha256: \"", f"sha256: \"{key}"))
                deadline = time.monotonic() + 20
                while "stays in use" not in server.output():
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
                log = server.output()
            self.assertIn("debug", log)
            for text in (key, secret, *guesses, *(o for o in outputs if len(o) > 8)):
                self.assertNotIn(text, log)


if __name__ == "__main__":
    unittest.main()
