"""Beam searches over gRPC and HTTP, whole and in streams, with structures, tools and in company."""
import json
import math
import threading
import unittest

import grpc

from harness import HostileTest, chat_request, collect, pb, violations
from http_client import events_of, join_chat, post, whole_chat

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo", "Rome"]},
                                           "size": {"type": "integer", "minimum": 1, "maximum": 9}},
          "required": ["city", "size"], "additionalProperties": False}


def beam_request(width, n=1, text="What is 12 + 30?", max_tokens=24, **beams):
    request = chat_request(text)
    request.n = n
    request.stopping.max_tokens = max_tokens
    request.reasoning.mode = pb.ReasoningOptions.MODE_NO_THINK
    request.beams.CopyFrom(pb.BeamOptions(width=width, **beams))
    return request


def body(**fields):
    return {"messages": [{"role": "user", "content": "What is 12 + 30?"}], "max_tokens": 24,
            "chat_template_kwargs": {"enable_thinking": False}, "use_beam_search": True, **fields}


def answers(reply):
    return [(list(choice.token_ids), round(choice.finish.beam_score, 5))
            for choice in reply.choices]


class BeamSearchTest(HostileTest):
    def generate(self, request):
        return self.server.stub.Generate(request, timeout=60)

    def test_best_first_and_the_score_is_of_the_tokens(self):
        request = beam_request(4, n=4)
        request.response.logprobs = 1
        reply = self.generate(request)
        self.assertEqual([choice.index for choice in reply.choices], [0, 1, 2, 3])
        scores = [choice.finish.beam_score for choice in reply.choices]
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertEqual(len({tuple(choice.token_ids) for choice in reply.choices}), 4)
        for choice in reply.choices:
            total = sum(token.logprob for token in choice.logprobs)
            self.assertTrue(math.isclose(choice.finish.beam_score, total / len(choice.token_ids),
                                         abs_tol=1e-4))
            self.assertEqual(choice.usage.completion_tokens, len(choice.token_ids))
        self.assertEqual(reply.usage.completion_tokens,
                         sum(len(choice.token_ids) for choice in reply.choices))
        # The best of four is the best of four, however many are asked for.
        self.assertEqual(answers(self.generate(beam_request(4))), answers(reply)[:1])

    def test_width_1_is_greedy(self):
        greedy = beam_request(1)
        greedy.ClearField("beams")
        greedy.sampling.temperature = 0
        one = self.generate(beam_request(1)).choices[0]
        self.assertEqual(one.token_ids, self.generate(greedy).choices[0].token_ids)
        self.assertFalse(one.finish.HasField("beam_score"))

    def test_streams_bring_the_same_at_the_end(self):
        request = beam_request(3, n=2)
        whole = self.generate(request)
        messages = list(self.server.stub.StreamGenerate(request, timeout=60))
        joined = {}
        for message in messages:
            for choice in message.choices:
                self.assertNotIn(choice.index, joined, "an answer comes in one piece")
                joined[choice.index] = choice
        for choice in whole.choices:
            self.assertEqual(joined[choice.index].text, choice.text)
            self.assertEqual(joined[choice.index].finish, choice.finish)

    def test_http_says_the_same_as_grpc(self):
        reply = post(self.server.http_port, CHAT, body(n=3, length_penalty=0.5,
                                                       early_stopping="never"))
        self.assertEqual(reply.status, 200, reply.body)
        choices = reply.json()["choices"]
        expected = self.generate(beam_request(3, n=3, length_penalty=0.5, early_stopping=(
            pb.BeamOptions.EARLY_STOPPING_NEVER)))
        self.assertEqual([choice["message"]["content"] for choice in choices],
                         [choice.text for choice in expected.choices])
        self.assertEqual([choice["beam_score"] for choice in choices],
                         [choice.finish.beam_score for choice in expected.choices])
        stream = post(self.server.http_port, CHAT, body(n=3, length_penalty=0.5, stream=True,
                                                        early_stopping="never"))
        joined = join_chat(events_of(stream))
        self.assertEqual({index: joined[index]["content"] for index in sorted(joined)},
                         {choice["index"]: choice["message"]["content"] for choice in choices})
        wide = post(self.server.http_port, CHAT, body(n=1, beam_width=3)).json()["choices"]
        self.assertEqual([choice["message"]["content"] for choice in wide],
                         [choice.text for choice in self.generate(beam_request(3)).choices])

    def test_completions(self):
        fields = {"prompt": "12 + 30 =", "max_tokens": 8, "use_beam_search": True, "n": 2,
                  "logprobs": 2}
        choices = post(self.server.http_port, "/v1/completions", fields).json()["choices"]
        self.assertEqual(len(choices), 2)
        self.assertGreaterEqual(choices[0]["beam_score"], choices[1]["beam_score"])
        for choice in choices:
            # The end token has a probability, too, and is no text.
            self.assertEqual("".join(choice["logprobs"]["tokens"]).removesuffix("<|im_end|>"),
                             choice["text"])

    def test_structures_hold_in_every_beam(self):
        request = beam_request(4, n=4, text="Describe a city.", max_tokens=40)
        request.constraints.json_schema = json.dumps(SCHEMA)
        reply = self.generate(request)
        self.assertEqual(len(reply.choices), 4)
        for choice in reply.choices:
            value = json.loads(choice.text)
            self.assertIn(value["city"], SCHEMA["properties"]["city"]["enum"])
            self.assertIn(value["size"], range(1, 10))
        # A ban is what a penalty comes to that nobody can afford; one of nothing binds nobody.
        request.beams.grammar_penalty = 1e6
        self.assertEqual(answers(self.generate(request)), answers(reply))
        request.beams.grammar_penalty = 0
        free = beam_request(4, n=4, text="Describe a city.", max_tokens=40)
        self.assertEqual(answers(self.generate(request)), answers(self.generate(free)))

    def test_as_many_answers_as_there_are(self):
        """Beams are rows of tokens: a text has as many as there are ways to cut it."""
        request = beam_request(16, n=16)
        request.constraints.choice.texts.extend(["yes", "no"])
        reply = self.generate(request)
        self.assertEqual({choice.text for choice in reply.choices}, {"no", "yes"})
        rows = {tuple(choice.token_ids) for choice in reply.choices}
        self.assertEqual(len(rows), len(reply.choices))
        self.assertLess(len(rows), 16)
        choices = post(self.server.http_port, CHAT, body(n=16, structured_outputs={
            "choice": ["yes", "no"]})).json()["choices"]
        self.assertEqual([choice["message"]["content"] for choice in choices],
                         [choice.text for choice in reply.choices])
        stream = post(self.server.http_port, CHAT, body(n=16, stream=True, structured_outputs={
            "choice": ["yes", "no"]}))
        self.assertEqual(len(join_chat(events_of(stream))), len(rows))

    def test_company_changes_nothing(self):
        request = beam_request(4, n=2)
        alone = answers(self.generate(request))
        results = []
        threads = [threading.Thread(target=lambda: results.append(answers(self.generate(request))))
                   for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, [alone] * 6)

    def test_cancelled_searches_leave_nothing(self):
        request = beam_request(8, max_tokens=400)
        request.stopping.ignore_eos = True
        for _ in range(3):
            call = self.server.stub.Generate.future(request, timeout=60)
            call.cancel()
        self.assertEqual(answers(self.generate(beam_request(2))),
                         answers(self.generate(beam_request(2))))

    def test_refusals_name_the_field(self):
        for change, field in ((lambda r: r.beams.ClearField("width"), "beams.width"),
                              (lambda r: setattr(r, "n", 5), "n"),
                              (lambda r: setattr(r.sampling, "top_p", 0.5), "sampling.top_p"),
                              (lambda r: r.stopping.stop.append("x"), "stopping.stop")):
            request = beam_request(4)
            change(request)
            with self.assertRaises(grpc.RpcError) as caught:
                self.generate(request)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(field, violations(caught.exception))


if __name__ == "__main__":
    unittest.main()
