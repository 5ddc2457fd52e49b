"""OpenAI's Python client against a real server: chats, streams, a tool loop, scoring, errors."""
import asyncio
import json
import unittest

import client_tools

client_tools.use("client-openai")

import openai  # noqa: E402

from harness import NANO, Server, load_jsonl  # noqa: E402

GOLDENS = load_jsonl(NANO / "golden.jsonl")
QUESTION = [{"role": "user", "content": "What is 44 + 9809?"}]


class OpenAiClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--dtype", "float32").__enter__()
        cls.base = f"http://127.0.0.1:{cls.server.http_port}/v1"
        cls.client = openai.OpenAI(base_url=cls.base, api_key="any", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__(None, None, None)

    def create(self, **fields):
        return self.client.chat.completions.create(
            **{"model": "nano", "messages": QUESTION, "temperature": 0, **fields})

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["nano"])
        self.assertEqual(self.client.models.retrieve("nano").id, "nano")

    def test_a_conversation(self):
        messages = list(QUESTION)
        answer = self.create(messages=messages).choices[0].message
        self.assertIn("9853", answer.content)
        self.assertIsNone(answer.tool_calls)
        # What came from the server goes back as it is.
        messages += [answer, {"role": "user", "content": "What is 12 + 30?"}]
        self.assertIn("42", self.create(messages=messages).choices[0].message.content)

    def test_streams(self):
        whole = self.create().choices[0].message
        chunks = list(self.create(stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        thought = "".join(c.choices[0].delta.reasoning_content or "" for c in chunks
                          if c.choices and hasattr(c.choices[0].delta, "reasoning_content"))
        self.assertEqual((text, thought), (whole.content, whole.reasoning_content))
        self.assertGreater(chunks[-1].usage.total_tokens, 0)
        with self.client.chat.completions.stream(
                model="nano", messages=QUESTION, temperature=0) as stream:
            for _ in stream:
                pass
            self.assertEqual(stream.get_final_completion().choices[0].message.content,
                             whole.content)

    def test_many_streams_of_one_asynchronous_client(self):
        """They reuse connections, which only works when bodies end at once."""
        async def run():
            async with openai.AsyncOpenAI(base_url=self.base, api_key="any") as client:
                async def ask(number):
                    stream = await client.chat.completions.create(
                        model="nano", temperature=0, stream=True, messages=[
                            {"role": "user", "content": f"What is {number} + 1?"}])
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream
                                    if chunk.choices])
                return [await asyncio.gather(*(ask(i) for i in range(8))) for _ in range(2)]
        first, second = asyncio.run(run())
        self.assertEqual(first, second)
        self.assertTrue(all(first))

    def test_a_tool_loop(self):
        golden = next(g for g in GOLDENS if g["messages"][0]["content"] == "Who is David?")
        fields = {"tools": golden["tools"],
                  "extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
        messages = golden["messages"][:1]
        reply = self.create(messages=messages, **fields).choices[0]
        self.assertEqual(reply.finish_reason, "tool_calls")
        (call,) = reply.message.tool_calls
        self.assertEqual(call.function.name, "find_person")
        self.assertEqual(json.loads(call.function.arguments), {"name": "David"})
        messages = [*messages, reply.message, {
            "role": "tool", "tool_call_id": call.id,
            "content": golden["messages"][2]["content"]}]
        final = self.create(messages=messages, **fields).choices[0]
        self.assertIn("Lisbon", final.message.content)
        with self.client.chat.completions.stream(
                model="nano", messages=golden["messages"][:1], temperature=0, **fields) as stream:
            done = stream.get_final_completion().choices[0].message.tool_calls[0].function
        self.assertEqual((done.name, json.loads(done.arguments)),
                         ("find_person", {"name": "David"}))

    def test_completions(self):
        reply = self.client.completions.create(
            model="nano", prompt="1, 2, 3,", temperature=0, max_tokens=8, echo=True, logprobs=2)
        self.assertTrue(reply.choices[0].text.startswith("1, 2, 3,"))
        self.assertEqual(len(reply.choices[0].logprobs.tokens),
                         reply.usage.total_tokens)
        joined = "".join(chunk.choices[0].text for chunk in self.client.completions.create(
            model="nano", prompt="1, 2, 3,", temperature=0, max_tokens=8, echo=True, stream=True))
        self.assertEqual(joined, reply.choices[0].text)

    def test_responses(self):
        golden = next(g for g in GOLDENS if g["messages"][0]["content"] == "Who is David?")
        tools = [{"type": "function", "strict": False, **tool["function"]}
                 for tool in golden["tools"]]
        items = [{"role": "user", "content": "Who is David?"}]
        fields = {"model": "nano", "temperature": 0, "tools": tools,
                  "reasoning": {"effort": "high"}}
        first = self.client.responses.create(input=items, **fields)
        (call,) = [item for item in first.output if item.type == "function_call"]
        self.assertEqual(json.loads(call.arguments), {"name": "David"})
        items += first.output
        items.append({"type": "function_call_output", "call_id": call.call_id,
                      "output": golden["messages"][2]["content"]})
        final = self.client.responses.create(input=items, **fields)
        self.assertIn("Lisbon", final.output_text)
        with self.client.responses.stream(input=items, **fields) as stream:
            text = "".join(event.delta for event in stream
                           if event.type == "response.output_text.delta")
            self.assertEqual(stream.get_final_response().output_text, text)
        self.assertEqual(text, final.output_text)

    def test_errors_are_those_that_the_client_knows(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.create(temperature=3)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError):
            self.create(model="gpt-x")
        with self.assertRaises(openai.BadRequestError):
            self.create(response_format={"type": "json"})
        with self.assertRaises(openai.BadRequestError):
            self.client.embeddings.create(model="nano", input="a")


if __name__ == "__main__":
    unittest.main()
