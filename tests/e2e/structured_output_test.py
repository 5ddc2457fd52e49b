"""Answers that must have a form: JSON schemas, expressions, grammars, choices and forced calls, over
gRPC and HTTP, whole and in streams, and at every max_tokens."""
import json
import re
import unittest

import grpc

from harness import HostileTest, chat_request, collect, pb, violations
from http_client import events_of, join_chat, post, whole_chat

CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "size": {"type": "integer", "minimum": 1, "maximum": 99},
        "kind": {"enum": ["old", "new", None]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,5}$"},
                 "minItems": 1, "maxItems": 3},
    },
    "required": ["city", "size", "tags"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {
        "city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 1,
                                                      "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": False}}}
OTHER = {"type": "function", "function": {"name": "stop_all"}}


def fits_schema(text):
    value = json.loads(text)
    return (set(value) <= set(SCHEMA["properties"]) and set(value) >= set(SCHEMA["required"])
            and isinstance(value["city"], str) and len(value["city"]) <= 12
            and type(value["size"]) is int and 1 <= value["size"] <= 99
            and value.get("kind") in ("old", "new", None) and 1 <= len(value["tags"]) <= 3
            and all(re.fullmatch("[a-z]{1,5}", tag) for tag in value["tags"]))


def fits_tool(call):
    function = call["function"]
    value = json.loads(function["arguments"])
    return (function["name"] == "get_weather" and set(value) == {"city", "days"}
            and value["city"] in ("Paris", "Oslo") and 1 <= value["days"] <= 9)


def user(**fields):
    return {"messages": [{"role": "user", "content": "Describe a city."}], "max_tokens": 120,
            "chat_template_kwargs": {"enable_thinking": False}, "seed": 3, **fields}


class StructuredOutputTest(HostileTest):
    def chat(self, body):
        reply = post(self.server.http_port, CHAT, body)
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json()["choices"]

    def stream(self, body):
        reply = post(self.server.http_port, CHAT, {**body, "stream": True})
        self.assertEqual(reply.status, 200, reply.body)
        return join_chat(events_of(reply))

    def both(self, body):
        """The choices of a request, whose stream says the same."""
        choices = self.chat(body)
        streamed = self.stream(body)
        for choice in choices:
            whole = whole_chat(choice)
            joined = streamed[choice["index"]]
            self.assertEqual(joined["content"] or "", whole["content"] or "")
            self.assertEqual(joined["tool_calls"], whole["tool_calls"])
            self.assertEqual(joined["finish_reason"], whole["finish_reason"])
        return choices

    def test_schema(self):
        body = user(n=4, temperature=1.2, response_format={
            "type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}})
        for choice in self.both(body):
            self.assertTrue(fits_schema(choice["message"]["content"]), choice)
            self.assertEqual(choice["finish_reason"], "stop")
        self.assertEqual(self.chat(body), self.chat(body))

    def test_schema_at_every_limit(self):
        schema = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
        limit = 1
        while post(self.server.http_port, CHAT,
                   user(response_format=schema, max_tokens=limit)).status == 400:
            limit += 1
        self.assertLess(limit, 60)
        for more in range(0, 24, 3):
            for thinks in (False, True):
                for choice in self.chat(user(
                        response_format=schema, max_tokens=limit + more, temperature=1.5,
                        chat_template_kwargs={"enable_thinking": thinks})):
                    self.assertTrue(fits_schema(choice["message"]["content"]), choice)

    def test_other_forms(self):
        for fields, pattern in (
                ({"structured_outputs": {"regex": "[0-9]{3}-[a-f]+"}}, "[0-9]{3}-[a-f]+"),
                ({"guided_regex": "(yes|no)"}, "yes|no"),
                ({"structured_outputs": {"choice": ["red", "deep blue"]}}, "red|deep blue"),
                ({"structured_outputs": {"grammar": 'root ::= "<" [a-c]{2,4} ">"'}}, "<[a-c]{2,4}>"),
                ({"guided_json": json.dumps({"type": "integer", "maximum": 5})}, "-?[0-9]+")):
            with self.subTest(fields=fields):
                for choice in self.both(user(n=2, temperature=1, max_tokens=40, **fields)):
                    self.assertIsNotNone(re.fullmatch(pattern, choice["message"]["content"]),
                                         choice)
        for choice in self.chat(user(response_format={"type": "json_object"}, temperature=1)):
            self.assertIsInstance(json.loads(choice["message"]["content"]), dict)

    def test_stop_rules_leave_a_structure_alone(self):
        body = user(response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
                    stop=["}", "\"", ","], min_tokens=100, ignore_eos=True, max_tokens=100)
        self.assertTrue(fits_schema(self.chat(body)[0]["message"]["content"]))

    def test_forced_calls(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        for choice in self.both(user(tools=[OTHER, TOOL], tool_choice=named, n=3, temperature=1)):
            calls = choice["message"]["tool_calls"]
            self.assertEqual(len(calls), 1)
            self.assertTrue(fits_tool(calls[0]), calls)
            self.assertEqual(choice["finish_reason"], "stop")
        for parallel in (True, False):
            body = user(tools=[TOOL, OTHER], tool_choice="required", temperature=1, n=3,
                        parallel_tool_calls=parallel)
            for choice in self.both(body):
                calls = choice["message"]["tool_calls"]
                self.assertGreaterEqual(len(calls), 1)
                if not parallel:
                    self.assertEqual(len(calls), 1)
                for call in calls:
                    self.assertIn(call["function"]["name"], ("get_weather", "stop_all"))
                    self.assertIsInstance(json.loads(call["function"]["arguments"]), dict)
                self.assertFalse(choice["message"]["content"])
                self.assertIn(choice["finish_reason"], ("tool_calls", "length"))

    def test_strict_tools(self):
        strict = json.loads(json.dumps(TOOL))
        strict["function"]["strict"] = True
        for choice in self.both(user(tools=[strict, OTHER], n=4, temperature=1)):
            for call in choice["message"].get("tool_calls") or []:
                if call["function"]["name"] == "get_weather":
                    self.assertTrue(fits_tool(call), call)

    def test_grpc(self):
        request = chat_request("Describe a city.")
        request.constraints.json_schema = json.dumps(SCHEMA)
        request.stopping.max_tokens = 200
        request.reasoning.mode = pb.ReasoningOptions.MODE_THINK
        request.reasoning.max_thinking_tokens = 20
        request.sampling.temperature = 1
        request.sampling.seed = 5
        request.n = 2
        whole = self.server.stub.Generate(request)
        streamed, _ = collect(self.server.stub.StreamGenerate(request))
        for choice in whole.choices:
            self.assertTrue(fits_schema(choice.text), choice)
            self.assertEqual(streamed[choice.index].text, choice.text)
            self.assertEqual(choice.finish.reason, pb.Finish.REASON_STOP)

    def test_refusals(self):
        def bad(param, **fields):
            reply = post(self.server.http_port, CHAT, user(**fields))
            self.assertEqual((reply.status, reply.error["param"]), (400, param), reply.body)
            return reply.error["message"]

        schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
        self.assertIn("#/properties/a/uniqueItems", bad(
            "response_format.json_schema.schema",
            response_format={"type": "json_schema", "json_schema": {"schema": schema}}))
        bad("structured_outputs.regex", structured_outputs={"regex": "(?=a)"})
        bad("guided_json", guided_json={"type": "string", "format": "unheard-of"})
        bad("guided_grammar", guided_grammar="root ::= root")
        bad("guided_regex", guided_json={}, guided_regex="a")
        bad("structured_outputs", structured_outputs={})
        bad("bad_words", guided_regex="a", bad_words=["b"])
        bad("max_tokens", guided_regex="[0-9]{50}", max_tokens=3)
        bad("tool_choice", tool_choice="required")
        bad("tool_choice", tools=[TOOL], tool_choice={"type": "function",
                                                      "function": {"name": "other"}})
        request = chat_request("Hi")
        request.constraints.json_schema = "{"
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.stub.Generate(request)
        self.assertEqual(list(violations(caught.exception)), ["constraints.json_schema"])

    def test_hostile_forms_are_bounded(self):
        for fields in ({"guided_regex": "(a|b)*a" + "(a|b)" * 60},
                       {"guided_regex": "((((a{999}){999}){999}){999})"},
                       {"guided_json": {"type": "array", "minItems": 2**40}},
                       {"guided_json": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}},
                       {"guided_grammar": "root ::= " + "(" * 5000}):
            with self.subTest(fields=fields):
                self.assertEqual(post(self.server.http_port, CHAT, user(**fields)).status, 400)


if __name__ == "__main__":
    unittest.main()
