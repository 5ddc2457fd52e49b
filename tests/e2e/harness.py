"""What the end-to-end tests share: a server process, generated stubs, the tessera command.

The tests are an independent client: Python, grpcio, stubs made from our .proto by protoc. They
read two environment variables: TESSERA_BIN (the binary) and TESSERA_STUBS (an empty or filled
folder for the stubs).
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = os.environ.get("TESSERA_BIN", str(ROOT / "build/cpu-release/tessera"))
STUBS = pathlib.Path(os.environ.get("TESSERA_STUBS", tempfile.gettempdir() + "/tessera-stubs"))
NANO = ROOT / "deploy/models/nano"
REFERENCE = ROOT / "tests/data/reference"


def generate_stubs():
    STUBS.mkdir(parents=True, exist_ok=True)
    protos = sorted((ROOT / "proto/tessera").rglob("*.proto"))
    subprocess.run(
        ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={STUBS}",
         "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin",
         f"--grpc_python_out={STUBS}", *map(str, protos)], check=True)
    sys.path.insert(0, str(STUBS))


generate_stubs()

import grpc  # noqa: E402
from tessera.v1 import error_details_pb2, inference_pb2 as pb  # noqa: E402
from tessera.v1 import inference_pb2_grpc as pb_grpc  # noqa: E402


class Server:
    """`tessera serve` on free ports, with a channel to it. Use as a context manager."""

    def __init__(self, *flags, model=NANO, expect_exit=0):
        self.flags = [str(f) for f in flags]
        self.model = model
        self.expect_exit = expect_exit

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        ready = pathlib.Path(self.folder.name) / "ready.json"
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+b")
        self.process = subprocess.Popen(
            [BIN, "serve", str(self.model), "--port", "0", "--metrics-port", "0",
             "--http-port", "0",
             "--ready-file", str(ready), *self.flags],
            stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.output()}")
            time.sleep(0.02)
        info = json.loads(ready.read_text())
        self.port = info["grpc_port"]
        self.metrics_port = info["metrics_port"]
        self.http_port = info["http_port"]
        self.address = f"127.0.0.1:{self.port}"
        self.channel = grpc.insecure_channel(
            self.address, options=[("grpc.max_receive_message_length", 64 << 20),
                                   ("grpc.max_send_message_length", 64 << 20)])
        self.stub = pb_grpc.InferenceStub(self.channel)
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        code = self.process.poll()
        output = self.output()
        if code is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.folder.cleanup()
        if exc_type is None and code != self.expect_exit:
            raise AssertionError(f"the server ended with {code}, not {self.expect_exit}:\n{output}")

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def resident(self, key="VmRSS"):
        """MiB that the process holds; key "VmHWM": the most it held."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024

    def get(self, path):
        """GET on the metrics port: (status, body)."""
        try:
            with urllib.request.urlopen(
                    f"http://127.0.0.1:{self.metrics_port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self):
        """The current samples as {'name{labels}': value}, without the label that all have."""
        samples = {}
        for line in self.get("/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = re.sub(r',?model_name="[^"]*"', "", name).replace("{}", "").replace("{,", "{")
                samples[name] = float(value)
        return samples

    def wait_idle(self, seconds=10):
        """Waits until nothing runs and returns the load then."""
        deadline = time.monotonic() + seconds
        while True:
            load = self.stub.GetLoad(pb.GetLoadRequest())
            if load.num_running == load.num_waiting == load.active_requests == 0:
                return load
            if time.monotonic() > deadline:
                raise AssertionError(f"still busy: {load}")
            time.sleep(0.01)


def run_tessera(*arguments, stdin=None, check=True, timeout=300):
    """Runs a tessera command; returns the finished process."""
    done = subprocess.run([BIN, *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          errors="surrogateescape", timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"tessera {arguments} ended with {done.returncode}: {done.stderr}")
    return done


def run_json(*arguments, **options):
    return json.loads(run_tessera(*arguments, "--json", **options).stdout)


def chat_request(text, **fields):
    """A greedy chat request with one user message."""
    request = pb.GenerateRequest(**fields)
    request.chat.messages.add(role="user", content=text)
    if not request.sampling.HasField("temperature"):
        request.sampling.temperature = 0
    return request


def collect(stream):
    """Joins a StreamGenerate call: {index: Choice with everything}, last usage."""
    choices = {}
    usage = None
    for message in stream:
        usage = message.usage
        for delta in message.choices:
            whole = choices.setdefault(delta.index, pb.Choice(index=delta.index))
            whole.text += delta.text
            whole.reasoning += delta.reasoning
            whole.token_ids.extend(delta.token_ids)
            whole.logprobs.extend(delta.logprobs)
            whole.prompt_logprobs.extend(delta.prompt_logprobs)
            whole.usage.CopyFrom(delta.usage)
            for call in delta.tool_calls:
                if call.index == len(whole.tool_calls):
                    whole.tool_calls.add(index=call.index, id=call.id, name=call.name)
                whole.tool_calls[call.index].arguments += call.arguments
            if delta.HasField("finish"):
                assert not whole.HasField("finish"), "two finishes for one choice"
                whole.finish.CopyFrom(delta.finish)
    return choices, usage


def read_until_unavailable(stream):
    """Reads a StreamGenerate call that must end UNAVAILABLE; the error."""
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return error
    raise AssertionError("the stream ended as if nothing had happened")


def violations(error):
    """Fields named by the google.rpc.BadRequest of an RpcError."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in error_details_pb2.StatusDetails.FromString(value).details:
                if detail.type_url.endswith("google.rpc.BadRequest"):
                    bad_request = error_details_pb2.BadRequest.FromString(detail.value)
                    return [violation.field for violation in bad_request.field_violations]
    return []


def load_jsonl(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def fill_messages(prompt, messages, tools):
    """Puts OpenAI-style messages into a ChatPrompt."""
    for message in messages:
        out = prompt.messages.add(role=message["role"], content=message.get("content") or "")
        if message.get("reasoning_content"):
            out.reasoning_content = message["reasoning_content"]
        for call in message.get("tool_calls") or []:
            function = call.get("function", call)
            arguments = function["arguments"]
            out.tool_calls.add(
                name=function["name"],
                arguments=arguments if isinstance(arguments, str)
                else json.dumps(arguments, ensure_ascii=False))
    prompt.tools.extend(json.dumps(tool, ensure_ascii=False) for tool in tools or [])


class HostileTest(unittest.TestCase):
    """Whatever a test does to the server, others are served as before and nothing leaks."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server().__enter__()
        cls.canary = chat_request("What is 44 + 9809?")
        cls.expected = cls.server.stub.Generate(cls.canary).choices[0].token_ids

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def tearDown(self):
        self.assertEqual(self.server.stub.Generate(self.canary, timeout=5).choices[0].token_ids,
                         self.expected)
        self.assertEqual(self.server.wait_idle().kv_blocks_used, 0)
