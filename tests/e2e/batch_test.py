"""`tessera batch`: files of requests, in this process and against a server, ended and begun again."""
import http.server
import json
import pathlib
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BIN, NANO, Server, run_tessera

DEFAULTS = json.dumps({"temperature": 0, "max_tokens": 24})


def chat(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def request(custom_id, url, body):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


MIXED = [
    request("sum", "/v1/chat/completions", chat("What is 44 + 9809?", n=2)),
    request("text", "/v1/completions",
            {"prompt": ["1 + 1 =", "2 + 2 ="], "echo": True, "logprobs": 1}),
    request("ids", "/v1/completions", {"prompt": [5, 6, 7], "return_token_ids": True}),
    request("responses", "/v1/responses", {"input": "Hello", "max_output_tokens": 8}),
    request("messages", "/v1/messages", chat("Hello", max_tokens=8)),
    request("shape", "/v1/chat/completions",
            chat("Say yes or no.", structured_outputs={"choice": ["yes", "no"]},
                 chat_template_kwargs={"enable_thinking": False})),
    chat("Name a colour.", custom_id="bare"),
    [{"role": "user", "content": "Hi"}],
    "Hello there",
    request("wrong", "/v1/chat/completions", chat("Hi", top_p=7)),
]


def without_names(body):
    """An answer without what differs between two equal answers."""
    if isinstance(body, dict):
        return {key: without_names(value) for key, value in body.items()
                if key not in ("id", "created", "created_at", "request_id", "cached_tokens",
                               "cache_read_input_tokens", "input_tokens", "input_tokens_details",
                               "prompt_tokens_details")}
    return [without_names(value) for value in body] if isinstance(body, list) else body


class BatchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server().__enter__()
        cls.url = f"http://127.0.0.1:{cls.server.http_port}"

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "out.jsonl"

    def write(self, lines):
        path = self.folder / "in.jsonl"
        path.write_text("".join(
            (line if isinstance(line, bytes) else json.dumps(line).encode()).decode() + "\n"
            for line in lines))
        return path

    def answers(self, path=None):
        text = (path or self.out).read_text()
        self.assertTrue(text == "" or text.endswith("\n"))
        answers = [json.loads(line) for line in text.splitlines()]
        by_id = {answer["custom_id"]: answer for answer in answers}
        self.assertEqual(len(by_id), len(answers), "a line was answered twice")
        return by_id

    def test_here_and_a_server_say_the_same(self):
        source = self.write(MIXED)
        other = self.folder / "other.jsonl"
        here = run_tessera("batch", source, self.out, "--model", NANO, "--defaults", DEFAULTS,
                           check=False)
        there = run_tessera("batch", source, other, "--server", self.url + "/v1", "--defaults",
                            DEFAULTS, check=False)
        for done in (here, there):
            self.assertEqual(done.returncode, 1, done.stderr)  # one request was wrong
            self.assertIn("line 10: HTTP 400", done.stderr)
            self.assertIn("top_p", done.stderr)
            self.assertIn("10 lines: 9 answered, 1 failed", done.stdout)
        local, remote = self.answers(), self.answers(other)
        self.assertEqual(set(local), {"sum", "text", "ids", "responses", "messages", "shape",
                                      "bare", "line-8", "line-9", "wrong"})
        for custom_id, answer in local.items():
            with self.subTest(custom_id):
                self.assertEqual(without_names(answer["response"]),
                                 without_names(remote[custom_id]["response"]))
        self.assertIn(local["shape"]["response"]["body"]["choices"][0]["message"]["content"],
                      ("yes", "no"))

    def test_lines_with_errors_are_named(self):
        source = self.write(["Hi", b"{broken", {"url": "/v1/embeddings", "body": {}}])
        done = run_tessera("batch", source, self.out, "--server", self.url, "--defaults", DEFAULTS,
                           check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("line 2: the line is", done.stderr)
        self.assertIn("line 3: url must be", done.stderr)
        answers = self.answers()
        self.assertEqual(answers["line-2"]["error"]["code"], "invalid_line")
        self.assertIsNone(answers["line-3"]["response"])
        self.assertEqual(answers["line-1"]["response"]["status_code"], 200)

    def test_a_killed_run_goes_on(self):
        count = 40
        lines = [chat(f"What is {i} + {2 * i}?", custom_id=f"q{i}", max_tokens=40)
                 for i in range(count)]
        source = self.write(lines)
        command = [BIN, "batch", str(source), str(self.out), "--server", self.url, "--concurrency",
                   "2", "--defaults", '{"temperature":0}']
        for wanted in (5, 15):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not self.out.exists() or self.out.read_bytes().count(b"\n") < wanted:
                self.assertIsNone(process.poll(), "the run was over too early")
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.005)
            process.kill()
            process.wait()
            with self.out.open("ab") as file:
                file.write(b'{"id":"batch_req_39","custom_id":"q3')
        before = self.out.read_bytes().rsplit(b"\n", 1)[0]
        done = run_tessera(*command[1:])
        self.assertIn("by an earlier run", done.stdout)
        self.assertTrue(self.out.read_bytes().startswith(before))
        answers = self.answers()
        self.assertEqual(set(answers), {f"q{i}" for i in range(count)})
        again = run_tessera(*command[1:])
        self.assertIn(f"0 answered, {count} by an earlier run; 0 tokens", again.stdout)
        clean = self.folder / "clean.jsonl"
        run_tessera("batch", source, clean, *command[4:])
        for custom_id, answer in self.answers(clean).items():
            self.assertEqual(without_names(answer["response"]["body"]["choices"]),
                             without_names(answers[custom_id]["response"]["body"]["choices"]))

    def test_a_server_that_is_busy_is_asked_again(self):
        calls = []

        class Busy(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                calls.append(self.headers["x-request-id"])
                status = 503 if len(calls) == 1 else 429 if len(calls) == 2 else 200
                body = b'{"usage": {\n"completion_tokens": 3}}'
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        done = run_tessera("batch", self.write(["Hi"]), self.out, "--server",
                           f"http://127.0.0.1:{server.server_port}")
        self.assertEqual(calls, ["batch_req_1"] * 3)
        self.assertIn("1 answered; 3 tokens", done.stdout)
        self.assertEqual(self.answers()["line-1"]["response"]["body"],
                         {"usage": {"completion_tokens": 3}})

    def test_the_command_line_is_checked(self):
        source = self.write(["Hi"])
        for arguments, problem in (
                ((source, self.out), "give --model or --server"),
                ((source, self.out, "--model", NANO, "--server", self.url), "give --model or"),
                ((source, self.out, "--server", "localhost"), "http://"),
                ((source, self.out, "--server", self.url, "--defaults", "[]"), "--defaults"),
                ((source,), "an argument is missing")):
            done = run_tessera("batch", *arguments, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(problem, done.stderr)
        self.assertFalse(self.out.exists())
        done = run_tessera("batch", self.folder / "none", self.out, "--server", self.url,
                           check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot open", done.stderr)


if __name__ == "__main__":
    unittest.main()
