"""Cases of tessera_client_test.py: only the installed client and a server's address are known here."""
import asyncio
import concurrent.futures
import json
import os
import pathlib
import re
import threading
import time
import typing
import unittest

import grpc

import tessera_client
from tessera_client import (AsyncClient, Cancelled, Client, DeadlineExceeded, InvalidRequest, Message,
                            NotFound, Overloaded, Retry, StreamLost, Unavailable, assistant, system,
                            tool_result, user)
from tessera_client import _schema

ADDRESS = os.environ["ADDRESS"]
ROOT = pathlib.Path(os.environ["ROOT"])
QUESTION = [user("What is 44 + 9809?")]
ENDLESS = {"max_tokens": 4000, "ignore_eos": True, "temperature": 0}


def wait_idle(client):
    deadline = time.monotonic() + 2
    while client.load().active_requests > 0:
        assert time.monotonic() < deadline, "the server still works on it"
        time.sleep(0.01)


class SyncTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = Client(ADDRESS)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()

    def test_a_conversation(self):
        answer = self.client.generate(QUESTION, temperature=0, timeout=60)
        self.assertIn("9853", answer.text)
        self.assertEqual(answer.finish_reason, "stop")
        self.assertGreater(answer.usage.completion_tokens, 0)
        talk = [*QUESTION, answer.message, {"role": "user", "content": "What is 12 + 30?"}]
        self.assertIn("42", self.client.generate(talk, temperature=0).text)

    def test_a_stream_is_the_whole_answer_in_pieces(self):
        whole = self.client.generate(QUESTION, temperature=0)
        stream = self.client.stream(QUESTION, temperature=0)
        pieces = list(stream)
        self.assertGreater(len(pieces), 2)
        self.assertEqual("".join(piece.text for piece in pieces), whole.text)
        self.assertEqual("".join(piece.reasoning for piece in pieces), whole.reasoning)
        self.assertEqual(pieces[-1].finish_reason, "stop")
        self.assertEqual(stream.answer.choices, whole.choices)
        self.assertEqual(stream.answer.usage.completion_tokens, whole.usage.completion_tokens)

    def test_options_reach_the_server(self):
        answer = self.client.generate("1, 2, 3,", n=2, temperature=0.9, seed=7, max_tokens=6, ignore_eos=True)
        again = self.client.generate("1, 2, 3,", n=2, temperature=0.9, seed=7, max_tokens=6, ignore_eos=True)
        self.assertEqual([len(choice.token_ids) for choice in answer.choices], [6, 6])
        self.assertEqual(answer.choices, again.choices)
        self.assertEqual(answer.finish_reason, "length")
        thinking = self.client.generate(QUESTION, temperature=0, thinking=True)
        plain = self.client.generate(QUESTION, temperature=0, thinking=False)
        self.assertTrue(thinking.reasoning)
        self.assertIsNone(thinking.choices[0].confidence)
        sure = self.client.generate(QUESTION, temperature=0, thinking="auto", confidence=True,
                                    max_tokens=200, min_answer_tokens=20)
        self.assertEqual(sure.reasoning, thinking.reasoning)
        self.assertLessEqual(sure.choices[0].confidence.lowest, sure.choices[0].confidence.mean)
        self.assertFalse(plain.reasoning)
        self.assertEqual(self.client.generate(QUESTION, temperature=0, stop="98").text.count("98"), 0)
        with self.assertRaisesRegex(TypeError, "max_token"):
            self.client.generate(QUESTION, max_token=3)

    def test_a_tool_loop(self):
        golden = next(g for g in map(json.loads, (ROOT / "deploy/models/nano/golden.jsonl").read_text().splitlines())
                      if g["messages"][0]["content"] == "Who is David?")
        fields = {"tools": golden["tools"], "thinking": True, "temperature": 0}
        talk = [user("Who is David?")]
        answer = self.client.generate(talk, **fields)
        self.assertEqual(answer.finish_reason, "tool_calls")
        (call,) = answer.tool_calls
        self.assertEqual((call.name, json.loads(call.arguments)), ("find_person", {"name": "David"}))
        stream = self.client.stream(talk, **fields)
        for _ in stream:
            pass
        self.assertEqual(stream.answer.tool_calls[0].arguments, call.arguments)
        talk += [answer.message, tool_result(call, golden["messages"][2]["content"])]
        self.assertIn("Lisbon", self.client.generate(talk, **fields).text)

    def test_answers_take_the_shape_that_is_asked_for(self):
        def ask(**structure):
            return self.client.generate(QUESTION, temperature=0, thinking=False, max_tokens=60, **structure)
        self.assertIn(ask(choice=["red", "blue"]).text, ("red", "blue"))
        self.assertRegex(ask(regex="[0-9]{4}").text, "^[0-9]{4}$")
        self.assertRegex(ask(grammar='root ::= "<" [a-z] ">"').text, "^<[a-z]>$")
        schema = {"type": "object", "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}},
                  "required": ["sum"], "additionalProperties": False}
        self.assertIn(json.loads(ask(json_schema=schema).text)["sum"], range(100))
        tool = {"type": "function", "function": {"name": "add", "parameters": {
            "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
            "additionalProperties": False}}}
        for choice in ("required", "add"):
            (call,) = ask(tools=[tool], tool_choice=choice).tool_calls[:1]
            self.assertEqual(call.name, "add")
            self.assertIn(json.loads(call.arguments)["a"], (1, 2))

    def test_tokens_and_facts(self):
        ids = self.client.tokenize("Hello, world")
        self.assertEqual(self.client.detokenize(ids), "Hello, world")
        self.assertGreater(len(self.client.tokenize([system("Be brief."), user("Hi"), assistant("Hi.")])), 8)
        self.assertEqual(self.client.generate(ids, max_tokens=1).usage.prompt_tokens, len(ids))
        self.assertEqual(self.client.model_info().name, "nano")
        self.assertTrue(self.client.server_info().ready)
        self.assertFalse(self.client.abort("nobody"))

    def test_errors_say_what_is_wrong(self):
        with self.assertRaises(InvalidRequest) as caught:
            self.client.generate(QUESTION, top_p=7)
        self.assertEqual([each.field for each in caught.exception.fields], ["sampling.top_p"])
        with self.assertRaises(NotFound):
            self.client.generate(QUESTION, model="gpt-x")
        with self.assertRaises(InvalidRequest):
            next(self.client.stream([Message("nobody", "Hi")]))
        with self.assertRaises(DeadlineExceeded):
            list(self.client.stream(QUESTION, timeout=0.3, **ENDLESS))
        with Client("127.0.0.1:1") as nobody, self.assertRaises(Unavailable):
            nobody.generate(QUESTION, timeout=5)

    def test_cancelling_stops_the_server(self):
        stream = self.client.stream(QUESTION, **ENDLESS)
        next(stream)
        self.assertEqual(self.client.load().active_requests, 1)
        threading.Timer(0.1, stream.cancel).start()
        with self.assertRaises(Cancelled):
            list(stream)
        wait_idle(self.client)
        with self.client.stream(QUESTION, **ENDLESS) as left:
            next(left)
        wait_idle(self.client)

    def test_it_is_typed_and_documented(self):
        for name in tessera_client.__all__:
            thing = getattr(tessera_client, name)
            self.assertTrue(thing.__doc__ or not isinstance(thing, type), name)
            if isinstance(thing, type):
                for member_name, member in vars(thing).items():
                    if callable(member) and not member_name.startswith("_"):
                        self.assertIn("return", typing.get_type_hints(member), member)
        readme = (ROOT / "deploy/clients/python/README.md").read_text()
        code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
        self.assertIn("127.0.0.1:50051", code)
        exec(code.replace("127.0.0.1:50051", ADDRESS), {})  # noqa: S102


class FullServerTest(unittest.TestCase):
    """A server with room for one call names the time after which to come again."""

    def test_what_was_refused_is_sent_again(self):
        with Client(os.environ["FULL_ADDRESS"]) as client, \
                Client(os.environ["FULL_ADDRESS"], retry=Retry(attempts=1)) as impatient:
            running = client.stream(QUESTION, **ENDLESS)
            next(running)
            with self.assertRaises(Overloaded) as caught:
                impatient.generate(QUESTION)
            self.assertGreater(caught.exception.retry_after, 0)
            threading.Timer(0.3, running.cancel).start()
            self.assertIn("9853", client.generate(QUESTION, temperature=0, timeout=60).text)


class FakeServer:
    """Does what a test tells: a list of ("refuse", seconds), ("fail", code), ("answer", finished)."""

    def __init__(self, script):
        self.script, self.times = list(script), []
        response = _schema.message("GenerateResponse")

        def answer(request, context):
            self.times.append(time.monotonic())
            kind, value = self.script.pop(0)
            if kind == "refuse":
                retry = _schema.message("RetryInfo")()
                retry.retry_delay.nanos = int(value * 1e9)
                details = _schema.message("StatusDetails")()
                details.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo",
                                    value=retry.SerializeToString())
                context.set_trailing_metadata([("grpc-status-details-bin", details.SerializeToString())])
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            if kind == "fail":
                context.abort(value, "failed")
            piece = response(request_id="r")
            piece.choices.add(text="hi")
            if value:
                piece.choices[0].finish.reason = 1
            yield piece
            if kind == "late":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full after all")

        request = _schema.message("GenerateRequest")
        handlers = {
            "StreamGenerate": grpc.unary_stream_rpc_method_handler(
                answer, request.FromString, response.SerializeToString),
            "Generate": grpc.unary_unary_rpc_method_handler(
                lambda r, context: next(answer(r, context)), request.FromString, response.SerializeToString),
        }
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[
            grpc.method_handlers_generic_handler(_schema.SERVICE, handlers)])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None)

    def gaps(self):
        return [after - before for before, after in zip(self.times, self.times[1:])]


def run_sync(address, retry=Retry(), timeout=None, stream=True):
    with Client(address, retry=retry) as client:
        if not stream:
            return client.generate("x", timeout=timeout).text
        return "".join(piece.text for piece in client.stream("x", timeout=timeout))


def run_async(address, retry=Retry(), timeout=None, stream=True):
    async def run():
        async with AsyncClient(address, retry=retry) as client:
            if not stream:
                return (await client.generate("x", timeout=timeout)).text
            return "".join([piece.text async for piece in client.stream("x", timeout=timeout)])
    return asyncio.run(run())


class RetryTest(unittest.TestCase):
    def each(self, script, check, **options):
        for run in (run_sync, run_async):
            for stream in (True, False):
                with self.subTest(run=run.__name__, stream=stream), FakeServer(script) as server:
                    check(server, lambda: run(server.address, stream=stream, **options))

    def test_after_the_time_that_the_server_names(self):
        def check(server, run):
            self.assertEqual(run(), "hi")
            for gap in server.gaps():
                self.assertTrue(0.2 <= gap < 3, gap)  # a busy machine may be late, never early
            self.assertEqual(len(server.times), 3)
        self.each([("refuse", 0.2), ("refuse", 0.2), ("answer", True)], check)

    def test_not_more_often_than_wanted(self):
        def check(server, run):
            self.assertRaises(Overloaded, run)
            self.assertEqual(len(server.times), 2)
        self.each([("refuse", 0.05)] * 5, check, retry=Retry(attempts=2))

    def test_not_beyond_the_deadline_or_the_longest_wait(self):
        def check(server, run):
            begin = time.monotonic()
            self.assertRaises(Overloaded, run)
            self.assertLess(time.monotonic() - begin, 0.5)
            self.assertEqual(len(server.times), 1)
        self.each([("refuse", 0.9)] * 5, check, timeout=0.8)
        self.each([("refuse", 0.9)] * 5, check, retry=Retry(longest=0.5))

    def test_nothing_that_may_have_begun(self):
        def check(server, run):
            self.assertRaises(Unavailable, run)
            self.assertEqual(len(server.times), 1)
        self.each([("fail", grpc.StatusCode.UNAVAILABLE), ("answer", True)], check)
        for run in (run_sync, run_async):
            with FakeServer([("late", False), ("answer", True)]) as server:
                self.assertRaises(Overloaded, run, server.address)
                self.assertEqual(len(server.times), 1)

    def test_a_stream_without_its_end_is_lost(self):
        for run in (run_sync, run_async):
            with FakeServer([("answer", False)]) as server:
                self.assertRaises(StreamLost, run, server.address)


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = AsyncClient(ADDRESS)

    async def asyncTearDown(self):
        await self.client.close()

    async def idle(self):
        for _ in range(200):
            if (await self.client.load()).active_requests == 0:
                return
            await asyncio.sleep(0.01)
        self.fail("the server still works on it")

    async def test_answers_and_streams(self):
        whole = await self.client.generate(QUESTION, temperature=0)
        stream = self.client.stream(QUESTION, temperature=0)
        self.assertEqual("".join([piece.text async for piece in stream]), whole.text)
        self.assertEqual(stream.answer.choices, whole.choices)
        many = await asyncio.gather(*(self.client.generate(QUESTION, temperature=0) for _ in range(6)))
        self.assertEqual({answer.text for answer in many}, {whole.text})
        with self.assertRaises(InvalidRequest):
            await self.client.generate(QUESTION, top_p=7)
        ids = await self.client.tokenize("Hello")
        self.assertEqual(await self.client.detokenize(ids), "Hello")
        self.assertEqual((await self.client.model_info()).name, "nano")
        self.assertTrue((await self.client.server_info()).ready)
        self.assertFalse(await self.client.abort("nobody"))

    async def test_cancelling_stops_the_server(self):
        stream = self.client.stream(QUESTION, **ENDLESS)
        await stream.__anext__()
        stream.cancel()
        with self.assertRaises(Cancelled):
            async for _ in stream:
                pass
        await self.idle()

        async def read():
            async for _ in self.client.stream(QUESTION, **ENDLESS):
                pass
        task = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        self.assertEqual((await self.client.load()).active_requests, 1)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        await self.idle()
        async with self.client.stream(QUESTION, **ENDLESS) as left:
            await left.__anext__()
        await self.idle()


if __name__ == "__main__":
    unittest.main()
