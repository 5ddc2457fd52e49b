"""Who may connect and call: TLS and API keys, and their files that change while the server runs."""
import concurrent.futures
import os
import pathlib
import shutil
import signal
import ssl
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import grpc

import http_client
from harness import NANO, ROOT, Server, chat_request, pb, pb_grpc, run_tessera

sys.path.insert(0, str(ROOT / "tests/support"))
from certificates import Authority, self_signed  # noqa: E402


def secure_channel(server, ca, pair=None, host="localhost"):
    credentials = grpc.ssl_channel_credentials(
        pathlib.Path(ca).read_bytes(),
        private_key=pair and pathlib.Path(pair[1]).read_bytes(),
        certificate_chain=pair and pathlib.Path(pair[0]).read_bytes())
    # Channels with equal arguments would share a connection, and with it the certificate.
    return grpc.secure_channel(f"{host}:{server.port}", credentials,
                               options=[("grpc.use_local_subchannel_pool", 1)])


def fetch(port, path, ca, pair=None, body=None):
    """Status and body of a request by HTTPS."""
    context = ssl.create_default_context(cafile=str(ca))
    if pair:
        context.load_cert_chain(*map(str, pair))
    request = urllib.request.Request(f"https://localhost:{port}{path}", data=body,
                                     headers={"Content-Type": "application/json"} if body else {})
    with urllib.request.urlopen(request, timeout=30, context=context) as reply:
        return reply.status, reply.read()


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        cls.authority = Authority(cls.root / "good")
        cls.good = cls.authority.issue("server")
        cls.other = Authority(cls.root / "other", "another authority")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def flags(self, pair=None, *more):
        pair = pair or self.good
        return ["--tls-cert", pair[0], "--tls-key", pair[1], *more]

    def ask(self, server, *options, host="localhost"):
        return run_tessera("client", f"{host}:{server.port}", "--chat", "Hi", "--max-tokens", 2,
                           *options, check=False)

    def test_both_apis_speak_tls(self):
        ca = self.authority.ca
        with Server(*self.flags()) as server:
            with secure_channel(server, ca) as channel:
                reply = pb_grpc.InferenceStub(channel).Generate(chat_request("Hi"))
                self.assertEqual(len(reply.choices), 1)
            self.assertEqual(fetch(server.http_port, "/v1/models", ca)[0], 200)
            body = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":3,"stream":true}'
            status, text = fetch(server.http_port, "/v1/chat/completions", ca, body=body)
            self.assertTrue(status == 200 and text.endswith(b"data: [DONE]\n\n"), text[-100:])
            self.assertEqual(self.ask(server, "--ca", ca).returncode, 0)
            bench = run_tessera("bench", "serve", f"localhost:{server.port}", "--ca", ca,
                                "--num-requests", 2, "--concurrency", 1, "--input-len", 4,
                                "--output-len", 2)
            self.assertIn(" 0 failed", bench.stdout)
            chat = run_tessera("chat", f"localhost:{server.port}", "--ca", ca, "--max-tokens", 2,
                               stdin="Hi\n")
            self.assertEqual(chat.returncode, 0)
            # The pages for probes stay as they were, readiness by a client of gRPC included.
            self.assertEqual(server.get("/readyz")[0], 200)
            time.sleep(4)
            self.assertEqual(server.get("/readyz")[0], 200)
            expiry = server.metrics()["tessera_certificate_expiry_timestamp_seconds"]
            self.assertAlmostEqual(expiry, time.time() + 365 * 86400, delta=3600)

    def test_the_pages_for_probes_speak_tls_when_asked(self):
        with Server(*self.flags(), "--metrics-tls") as server:
            self.assertEqual(fetch(server.metrics_port, "/readyz", self.authority.ca)[0], 200)

    def test_clients_hear_what_is_wrong(self):
        ca, stranger = self.authority.ca, self.other.ca
        wrong_host = self.authority.issue("elsewhere", hosts="DNS:elsewhere.example")
        own = self_signed(self.root, "own")
        expired = self.authority.issue("late", days=-1)
        with Server(*self.flags()) as server, Server(*self.flags(wrong_host)) as elsewhere, \
                Server(*self.flags(own)) as self_made, Server() as plain:
            for at, options, words in (
                    (server, (), "the server speaks TLS"),
                    (server, ("--tls",), "unable to get local issuer certificate; --ca"),
                    (server, ("--ca", stranger), "unable to get local issuer certificate; --ca"),
                    (server, ("--ca", self.root / "none"), "--ca: "),
                    (server, ("--cert", self.good[0]), "--key: is needed with --cert"),
                    (server, ("--ca", ca, "--cert", expired[0], "--key", expired[1]),
                     "has expired on"),
                    (elsewhere, ("--ca", ca), "ostname mismatch; it does not name localhost"),
                    (self_made, ("--ca", ca), "self-signed certificate; --ca"),
                    (plain, ("--ca", ca), "does not speak TLS")):
                done = self.ask(at, *options)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr, options)
            self.assertEqual(self.ask(self_made, "--ca", own[0]).returncode, 0)
            self.assertIn("is self-signed", self_made.output())
            for unspoilt in (server, elsewhere, self_made, plain):
                self.assertEqual(unspoilt.get("/healthz")[0], 200)

    def test_client_certificates(self):
        ca = self.authority.ca
        mine, strange = self.authority.issue("client"), self.other.issue("stranger")
        with Server(*self.flags(None, "--tls-client-ca", ca)) as server:
            self.assertEqual(
                self.ask(server, "--ca", ca, "--cert", mine[0], "--key", mine[1]).returncode, 0)
            self.assertEqual(fetch(server.http_port, "/v1/models", ca, mine)[0], 200)
            # The same again: a resumed session is no way around the certificate.
            self.assertEqual(fetch(server.http_port, "/v1/models", ca, mine)[0], 200)
            for pair, words in ((None, "wants a certificate of the client (--cert"),
                                (strange, "does not accept the certificate of --cert")):
                options = ["--ca", ca] + (["--cert", pair[0], "--key", pair[1]] if pair else [])
                done = self.ask(server, *options)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr)
                with self.assertRaises(OSError):
                    fetch(server.http_port, "/v1/models", ca, pair)
            self.assertEqual(server.get("/readyz")[0], 200)

    def test_a_server_with_bad_files_does_not_start(self):
        ca, (certificate, key) = self.authority.ca, self.good
        expired = self.authority.issue("expired", days=-1)
        another = self.authority.issue("another")
        cut = self.root / "cut.pem"
        cut.write_text(pathlib.Path(certificate).read_text()[:200])
        none = self.root / "none.pem"
        secret = self.root / "secret.key"
        os.system(f"openssl ec -in {key} -aes128 -passout pass:x -out {secret} 2>/dev/null")
        for cert, own, more, words in (
                (expired[0], expired[1], (), f"--tls-cert: {expired[0]}: has expired on"),
                (certificate, another[1], (), f"--tls-key: {another[1]}: is not the key of"),
                (none, key, (), f"--tls-cert: {none}"),
                (cut, key, (), f"--tls-cert: {cut}: a certificate in it is truncated"),
                (key, key, (), f"--tls-cert: {key}: holds no certificate"),
                (certificate, certificate, (), f"--tls-key: {certificate}: holds no private key"),
                (certificate, secret, (), f"--tls-key: {secret}: is encrypted"),
                (certificate, "", (), "--tls-key: is needed with --tls-cert"),
                ("", "", ("--tls-client-ca", ca), "--tls-client-ca: needs --tls-cert"),
                (certificate, key, ("--tls-client-ca", key), f"--tls-client-ca: {key}: holds no")):
            done = run_tessera("serve", NANO, "--port", 0, "--metrics-port", 0, "--tls-cert", cert,
                               "--tls-key", own, *more, check=False, timeout=60)
            self.assertNotEqual(done.returncode, 0, words)
            self.assertIn(words, done.stderr)

    def test_certificates_change_under_load_without_a_failed_call(self):
        ca = self.authority.ca
        pair = (self.root / "live.pem", self.root / "live.key")
        for source, target in zip(self.authority.issue("first"), pair):
            shutil.copy(source, target)
        second = self.authority.issue("second", days=30)
        with Server(*self.flags(pair)) as server:
            before = ssl.get_server_certificate(("localhost", server.port))
            self.assertEqual(ssl.get_server_certificate(("localhost", server.http_port)), before)
            stop, failed, done = threading.Event(), [], []

            def call_for_ever(make_call):
                while not stop.is_set():
                    try:
                        make_call()
                        done.append(1)
                    except Exception as error:  # noqa: BLE001: whatever it is, it counts
                        failed.append(error)

            def call_by_new_channel():
                with secure_channel(server, ca) as channel:
                    pb_grpc.InferenceStub(channel).GetModelInfo(pb.GetModelInfoRequest(),
                                                                timeout=20)

            kept = secure_channel(server, ca)
            stub = pb_grpc.InferenceStub(kept)
            calls = (call_by_new_channel, lambda: fetch(server.http_port, "/v1/models", ca),
                     lambda: stub.Generate(chat_request("Hi"), timeout=20))
            with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
                tasks = [pool.submit(call_for_ever, call) for call in calls]
                # Garbage and a key without its certificate are never shown to anybody.
                pair[0].write_text("-----BEGIN CERTIFICATE-----\nrubbish\n")
                self.wait_for(lambda: "what was there before stays in use" in server.output())
                shutil.copy(second[1], pair[1])
                time.sleep(0.5)
                shutil.copy(second[0], pair[0])
                for port in (server.http_port, server.port):
                    self.wait_for(lambda: ssl.get_server_certificate(("localhost", port)) != before)
                time.sleep(0.5)
                stop.set()
                for task in tasks:
                    task.result()
            kept.close()
            self.assertEqual(failed, [])
            self.assertGreater(len(done), 10)
            self.assertAlmostEqual(server.metrics()["tessera_certificate_expiry_timestamp_seconds"],
                                   time.time() + 30 * 86400, delta=3600)

    def wait_for(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it took too long")
            time.sleep(0.1)


class Keys:
    """A key file and its keys."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "keys.yaml"

    def add(self, name, *scopes, tenant="acme"):
        options = [word for scope in scopes for word in ("--scope", scope)]
        done = run_tessera("keys", "add", self.path, "--name", name, "--tenant", tenant, *options)
        key = done.stdout.strip()
        file = self.path.parent / f"{name}.key"
        file.write_text(key + "\n")
        return key


def bearer(key):
    return [("authorization", f"Bearer {key}")]


def code_of(call, *arguments, **options):
    """The status of a call, OK included."""
    try:
        result = call(*arguments, timeout=20, **options)
        if hasattr(result, "code") and not isinstance(result, pb.GenerateResponse):
            list(result)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


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


if __name__ == "__main__":
    unittest.main()
