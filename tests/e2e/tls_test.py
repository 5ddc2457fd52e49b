"""Who may connect: TLS on every port, certificates that change while the server runs."""
import concurrent.futures
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import grpc

from key_file import Keys
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

    def test_the_minimal_client(self):
        keys = Keys(self.root)
        keys.add("reader", "generate")
        mine = self.authority.issue("minimal")
        files = ["--ca", self.authority.ca, "--cert", mine[0], "--key", mine[1]]
        with Server(*self.flags(None, "--tls-client-ca", self.authority.ca),
                    "--api-keys", keys.path) as server:
            def chat(*options):
                return subprocess.run(
                    ["/usr/bin/python3", ROOT / "deploy/clients/chat.py", f"localhost:{server.port}",
                     "What is 12 + 30?", *options], capture_output=True, text=True, timeout=60)
            done = chat(*files, "--api-key-file", self.root / "reader.key")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("42", done.stdout)
            refused = chat(*files)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("UNAUTHENTICATED", refused.stderr)
            self.assertIn("--ca", chat(*files[2:]).stderr)

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


if __name__ == "__main__":
    unittest.main()
