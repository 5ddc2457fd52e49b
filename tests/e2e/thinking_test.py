"""Thinking over gRPC and HTTP: who decides, budgets, steps, and how sure the model is."""
import json
import math
import unittest
import urllib.request

from harness import NANO, Server, chat_request, collect, pb, run_json, run_tessera

QUESTION = "What is 44 + 9809?"
AUTO = pb.ReasoningOptions.MODE_AUTO
NO_THINK = pb.ReasoningOptions.MODE_NO_THINK


class ThinkingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--dtype", "float32").__enter__()
        cls.tags = [cls.server.stub.Tokenize(pb.TokenizeRequest(
            text=tag, parse_special_tokens=True)).token_ids[0] for tag in ("<think>", "</think>")]

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def generate(self, request):
        return self.server.stub.Generate(request)

    def http(self, text, **fields):
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.http_port}/v1/chat/completions",
            json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read().decode()
        if not fields.get("stream"):
            return json.loads(text)
        return [json.loads(line[6:]) for line in text.splitlines()
                if line.startswith("data: {")]

    def test_auto_thinks_where_it_helps_and_says_so(self):
        for text, thinks, reason in ((QUESTION, True, "NUMBERS"), ("Hello!", False, "PLAIN"),
                                     (QUESTION + " /no_think", False, "SWITCH")):
            request = chat_request(text)
            request.reasoning.mode = AUTO
            response = self.generate(request)
            self.assertEqual(response.thinking.thinks, thinks)
            self.assertEqual(response.thinking.reason,
                             pb.ThinkingChoice.Reason.Value("REASON_" + reason))
            self.assertEqual(bool(response.choices[0].reasoning), thinks)
            messages = list(self.server.stub.StreamGenerate(request))
            self.assertEqual([message.HasField("thinking") for message in messages],
                             [True] + [False] * (len(messages) - 1))
            chunks = self.http(text, reasoning_effort="auto", stream=True)
            wanted = {"mode": "auto", "thinks": thinks, "reason": reason.lower()}
            self.assertEqual(chunks[0]["thinking"], wanted)
            self.assertTrue(all("thinking" not in chunk for chunk in chunks[1:]))
            self.assertEqual(self.http(text, reasoning_effort="auto")["thinking"], wanted)
        self.assertFalse(self.generate(chat_request(QUESTION)).HasField("thinking"))
        self.assertNotIn("thinking", self.http(QUESTION))

    def answers(self, requests):
        """The choices of requests that are answered at the same time."""
        calls = [self.server.stub.Generate.future(request) for request in requests]
        return [call.result().choices[0] for call in calls]

    def test_every_budget_ends_in_an_answer(self):
        free = len(self.generate(chat_request(QUESTION)).choices[0].token_ids)
        requests = []
        for budget in range(0, 65):
            request = chat_request(QUESTION)
            request.reasoning.max_thinking_tokens = budget
            request.stopping.max_tokens = free + 60
            requests.append(request)
        choices = self.answers(requests)
        for budget, choice in enumerate(choices):
            self.assertTrue(choice.text.strip(), budget)
            self.assertNotIn("think>", choice.text + choice.reasoning)
            if not choice.finish.thinking_budget_enforced:
                self.assertLessEqual(choice.usage.reasoning_tokens, budget)
        cut = [choice.finish.thinking_budget_enforced for choice in choices]
        self.assertEqual(cut, sorted(cut, reverse=True), "a larger budget cuts no earlier")
        self.assertTrue(cut[0], "no thinking at all is a cut, too")

    def test_tokens_are_kept_for_the_answer(self):
        sizes = range(4, 64)
        requests = []
        for max_tokens in sizes:
            request = chat_request(QUESTION)
            request.stopping.max_tokens = max_tokens
            request.stopping.ignore_eos = True
            request.reasoning.min_answer_tokens = 4
            requests.append(request)
        for max_tokens, choice in zip(sizes, self.answers(requests)):
            answer = max_tokens - choice.usage.reasoning_tokens
            answer -= sum(token in self.tags for token in choice.token_ids)
            self.assertGreaterEqual(answer, 4, max_tokens)
            self.assertTrue(choice.text.strip(), max_tokens)
        self.assertTrue(self.answers(requests[:1])[0].finish.thinking_budget_enforced)
        reply = self.http(QUESTION, max_tokens=40, min_answer_tokens=8)["choices"][0]
        self.assertTrue(reply["thinking_budget_enforced"])
        self.assertTrue(reply["message"]["content"].strip())

    def test_confidence_is_what_logprobs_say(self):
        for text in ("Hello!", "Repeat after me: fox"):
            request = chat_request(text, n=2)
            request.sampling.temperature = 1
            request.sampling.seed = 3
            request.response.confidence = True
            alone = self.generate(request)
            request.response.logprobs = 0
            streamed, _ = collect(self.server.stub.StreamGenerate(request))
            for choice in self.generate(request).choices:
                end = choice.finish.stop_token_id
                tokens = [entry for entry in choice.logprobs if entry.token_id != end]
                close = max((at for at, entry in enumerate(tokens) if entry.token_id in self.tags),
                            default=-1)
                answer = tokens[close + 1:]
                blank = self.server.stub.Detokenize(
                    pb.DetokenizeRequest(token_ids=[answer[0].token_id])).text.isspace()
                values = [math.exp(entry.logprob) for entry in answer[blank:]]
                for said in (choice, streamed[choice.index],
                             *[c for c in alone.choices if c.index == choice.index]):
                    said = said.finish.confidence
                    self.assertEqual(said.tokens, len(values))
                    self.assertAlmostEqual(said.mean, sum(values) / len(values), places=5)
                    self.assertAlmostEqual(said.lowest, min(values), places=5)
            self.assertTrue(all(not choice.logprobs for choice in alone.choices))
        sure = self.http(QUESTION, confidence=True)["choices"][0]["confidence"]
        self.assertGreater(sure["lowest"], 0.9)
        last = self.http(QUESTION, confidence=True, stream=True)[-1]["choices"][0]
        self.assertEqual(last["confidence"], sure)
        self.assertNotIn("confidence", self.http(QUESTION)["choices"][0])

    def test_reasoning_in_steps(self):
        request = chat_request(QUESTION)
        request.response.reasoning_steps = True
        choice = self.generate(request).choices[0]
        self.assertEqual(list(choice.reasoning_steps), choice.reasoning.split("\n"))
        self.assertGreater(len(choice.reasoning_steps), 3)
        whole = self.http(QUESTION, reasoning_steps=True)["choices"][0]
        self.assertEqual(whole["reasoning_steps"], list(choice.reasoning_steps))
        chunks = self.http(QUESTION, reasoning_steps=True, stream=True)
        self.assertEqual(chunks[-1]["choices"][0]["reasoning_steps"], whole["reasoning_steps"])
        hidden = self.http(QUESTION, reasoning_steps=True, include_reasoning=False)
        self.assertNotIn("reasoning_steps", hidden["choices"][0])

    def test_bench_measures_it(self):
        result = run_json("bench", "thinking", NANO, "--dtype", "float32")
        self.assertEqual(result["chats"], 300)
        self.assertEqual(result["think"]["right"], 261)
        self.assertEqual(result["no_think"]["right"], 138)
        self.assertGreaterEqual(result["auto"]["right"], 0.98 * result["think"]["right"])
        self.assertLess(result["auto"]["tokens"], 0.88 * result["think"]["tokens"])
        self.assertEqual(sum(r["chats"] for r in result["auto"]["by_reason"].values()), 300)
        bad = run_tessera("bench", "thinking", NANO, "--chats", __file__, check=False)
        self.assertEqual(bad.returncode, 1)
        self.assertIn("line 1: a line needs", bad.stderr)


if __name__ == "__main__":
    unittest.main()
