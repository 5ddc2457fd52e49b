"""The OpenAI-compatible HTTP API: the same answers as gRPC, streams that say what whole answers say,
the same bounds and words, and errors that a client can use."""
import json
import socket
import threading
import time
import unittest

import grpc

from harness import NANO, HostileTest, Server, chat_request, load_jsonl, pb, violations
from http_client import (events_of, join_chat, named_events_of, post, raw, request,
                         whole_chat)

GOLDENS = load_jsonl(NANO / "golden.jsonl")
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"

# Path of the gRPC field: name in the API, values at the borders and beyond them.
INT_EDGES = [0, 1, -1, 16, 17, 20, 21, 1000, 1001, 2**31 - 1, 2**31, 2**63 - 1, -(2**63)]
REAL_EDGES = [0.0, 1.0, 0.009, 0.01, 1.0001, 2.0, 2.0001, -2.0, -2.0001, 100.0, 100.1, 1e300]
INTEGERS = {
    "n": "n", "priority": "priority", "sampling.top_k": "top_k", "sampling.seed": "seed",
    "stopping.max_tokens": "max_tokens", "stopping.min_tokens": "min_tokens",
    "response.logprobs": "top_logprobs", "response.prompt_logprobs": "prompt_logprobs",
    "reasoning.max_thinking_tokens": "thinking_token_budget",
}
REALS = {
    "sampling.temperature": "temperature", "sampling.top_p": "top_p", "sampling.min_p": "min_p",
    "sampling.repetition_penalty": "repetition_penalty",
    "sampling.presence_penalty": "presence_penalty",
    "sampling.frequency_penalty": "frequency_penalty",
}


def user(text, **fields):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def golden_body(golden):
    messages = []
    for message in golden["messages"]:
        message = dict(message)
        if message.get("tool_calls"):
            message["tool_calls"] = [
                {"id": "c", "type": "function", "function": {
                    "name": call.get("function", call)["name"],
                    "arguments": json.dumps(call.get("function", call)["arguments"])}}
                for call in message["tool_calls"]]
        messages.append(message)
    return {"messages": messages, "temperature": 0, "max_tokens": 96, "return_token_ids": True,
            "chat_template_kwargs": {"enable_thinking": golden["enable_thinking"]},
            **({"tools": golden["tools"]} if golden["tools"] else {})}


class HttpApiTest(HostileTest):
    def setUp(self):
        self.port = self.server.http_port

    def chat(self, body):
        return post(self.port, CHAT, body)

    def good(self, path, body):
        reply = post(self.port, path, body)
        self.assertEqual(reply.status, 200, reply.body)
        return reply

    def bad(self, body, status=400, param=None, path=CHAT):
        reply = post(self.port, path, body)
        self.assertEqual(reply.status, status, reply.body)
        error = reply.error
        self.assertEqual(error["code"], status)
        self.assertIsInstance(error["message"], str)
        self.assertIn("x-request-id", reply.headers)
        if param is not None:
            self.assertEqual(error["param"], param, error)
        return error

    # ---- answers -------------------------------------------------------------------------------

    def test_streams_say_what_whole_answers_say_and_what_grpc_says(self):
        num_calls = num_thoughts = 0
        for index, golden in enumerate(GOLDENS):
            with self.subTest(line=index):
                body = golden_body(golden)
                whole = self.good(CHAT, body).json()
                stream = events_of(self.good(CHAT, {
                    **body, "stream": True, "stream_options": {"include_usage": True}}))
                (choice,) = whole["choices"]
                self.assertEqual(join_chat(stream)[0], whole_chat(choice))
                self.assertEqual(stream[-1]["usage"]["completion_tokens"],
                                 whole["usage"]["completion_tokens"])
                self.assertEqual({event["id"] for event in stream}, {stream[0]["id"]})
                self.assertEqual(stream[0]["choices"][0]["delta"],
                                 {"role": "assistant", "content": ""})
                self.assertEqual(whole["prompt_token_ids"], golden["prompt_ids"])
                self.assertEqual(choice["token_ids"],
                                 self.grpc_ids(golden["prompt_ids"], 96))
                self.assertEqual(whole["usage"]["prompt_tokens"], len(golden["prompt_ids"]))
                num_calls += "tool_calls" in choice["message"]
                num_thoughts += "reasoning" in choice["message"]
        self.assertGreater(num_calls, 0)
        self.assertGreater(num_thoughts, 0)

    def grpc_ids(self, prompt_ids, max_tokens):
        message = pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt_ids))
        message.sampling.temperature = 0
        message.stopping.max_tokens = max_tokens
        return list(self.server.stub.Generate(message).choices[0].token_ids)

    def test_shape_of_a_chat_answer(self):
        reply = self.good(CHAT, user("What is 44 + 9809?", logprobs=True, top_logprobs=2, n=2))
        answer = reply.json()
        self.assertEqual(answer["object"], "chat.completion")
        self.assertTrue(answer["id"].startswith("chatcmpl-"))
        self.assertEqual([choice["index"] for choice in answer["choices"]], [0, 1])
        for choice in answer["choices"]:
            self.assertIn("9853", choice["message"]["content"])
            self.assertEqual(choice["message"]["role"], "assistant")
            self.assertEqual(choice["finish_reason"], "stop")
            self.assertIsNone(choice["stop_reason"])
            self.assertNotIn("tool_calls", choice["message"])
            tokens = choice["logprobs"]["content"]
            self.assertEqual(2 * len(tokens), answer["usage"]["completion_tokens"])
            text = b"".join(bytes(token["bytes"]) for token in tokens).decode()
            self.assertIn("9853", text)
            for token in tokens:
                self.assertEqual(len(token["top_logprobs"]), 2)
                self.assertEqual(token["logprob"], token["top_logprobs"][0]["logprob"])
        usage = answer["usage"]
        self.assertEqual(usage["total_tokens"],
                         usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertIn("cached_tokens", usage["prompt_tokens_details"])
        self.assertGreater(usage["completion_tokens_details"]["reasoning_tokens"], 0)

    def test_seeded_choices_are_those_of_grpc(self):
        message = chat_request("Tell me a number.", n=3)
        message.sampling.temperature = 1
        message.sampling.seed = 5
        message.stopping.max_tokens = 24
        expected = {choice.index: list(choice.token_ids)
                    for choice in self.server.stub.Generate(message).choices}
        body = user("Tell me a number.", n=3, temperature=1, seed=5, max_completion_tokens=24,
                    max_tokens=3, return_token_ids=True)
        answer = self.good(CHAT, body).json()
        self.assertEqual({c["index"]: c["token_ids"] for c in answer["choices"]}, expected)
        joined = join_chat(events_of(self.good(CHAT, {**body, "stream": True})))
        self.assertEqual({index: c["token_ids"] for index, c in joined.items()}, expected)

    def test_streams_look_as_clients_expect(self):
        reply = self.good(CHAT, user("What is 44 + 9809?", stream=True, stream_options={
            "include_usage": True, "continuous_usage_stats": True}))
        self.assertEqual(reply.headers["content-type"], "text/event-stream; charset=utf-8")
        self.assertEqual(reply.headers["cache-control"], "no-cache")
        self.assertEqual(reply.headers["transfer-encoding"], "chunked")
        events = events_of(reply)
        self.assertEqual(events[-1]["choices"], [])
        finishes = [c["finish_reason"] for e in events for c in e["choices"]]
        self.assertEqual([f for f in finishes if f], ["stop"])
        for event in events:
            self.assertEqual(event["object"], "chat.completion.chunk")
            self.assertLessEqual(len(event["choices"]), 1)
            self.assertIn("usage", event)
        plain = events_of(self.good(CHAT, user("Hi", max_tokens=2, stream=True)))
        self.assertTrue(all("usage" not in event for event in plain))
        self.assertTrue(all(event["choices"] for event in plain))
        # Without chunks the body ends with the connection.
        body = json.dumps(user("Hi", max_tokens=2, stream=True)).encode()
        old = raw(self.port, b"POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s"
                  % (CHAT.encode(), len(body), body))
        self.assertTrue(old.endswith(b"data: [DONE]\n\n"), old)
        self.assertNotIn(b"chunked", old)

    def test_reasoning_can_be_switched_and_hidden(self):
        def ask(**fields):
            answer = self.good(CHAT, user("What is 44 + 9809?", **fields)).json()
            return answer["choices"][0]["message"], answer["usage"]["completion_tokens_details"]
        shown, usage = ask()
        self.assertEqual(shown["reasoning"], shown["reasoning_content"])
        hidden, hidden_usage = ask(include_reasoning=False)
        self.assertNotIn("reasoning", hidden)
        self.assertEqual(hidden["content"], shown["content"])
        self.assertEqual(hidden_usage, usage)
        for fields in ({"reasoning_effort": "none"}, {"thinking_token_budget": 0},
                       {"chat_template_kwargs": {"enable_thinking": False}},
                       {"reasoning_effort": "high",
                        "chat_template_kwargs": {"enable_thinking": False}}):
            message, counts = ask(**fields)
            self.assertEqual(counts["reasoning_tokens"], 0, fields)
            self.assertNotIn("reasoning", message)
        self.assertLessEqual(ask(thinking_budget_tokens=3)[1]["reasoning_tokens"], 60)

    def test_stop_strings_and_tokens(self):
        body = user("What is 44 + 9809?", chat_template_kwargs={"enable_thinking": False})
        text = self.good(CHAT, body).json()["choices"][0]["message"]["content"]
        choice = self.good(CHAT, {**body, "stop": text[2:4]}).json()["choices"][0]
        self.assertEqual(choice["message"]["content"], text[:2])
        self.assertEqual((choice["finish_reason"], choice["stop_reason"]), ("stop", text[2:4]))
        kept = self.good(CHAT, {**body, "stop": ["nothing", text[2:4]],
                                "include_stop_str_in_output": True}).json()["choices"][0]
        self.assertEqual(kept["message"]["content"], text[:4])
        cut = self.good(CHAT, {**body, "max_tokens": 1}).json()["choices"][0]
        self.assertEqual((cut["finish_reason"], cut["stop_reason"]), ("length", None))

    def test_completions_score_prompts(self):
        ids = post(self.port, "/tokenize", {"prompt": "The sum of 3 and 4"}).json()["tokens"]
        body = {"prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
                "echo": True}
        (choice,) = self.good(COMPLETIONS, body).json()["choices"]
        logprobs = choice["logprobs"]
        self.assertEqual(len(logprobs["tokens"]), len(ids) + 1)
        self.assertIsNone(logprobs["token_logprobs"][0])
        self.assertIsNone(logprobs["top_logprobs"][0])
        self.assertEqual(logprobs["text_offset"][0], 0)
        for own, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:]):
            self.assertIn(own, top.values())
            self.assertLessEqual(len(top), 2)
        message = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))
        message.sampling.temperature = 0
        message.stopping.max_tokens = 1
        message.response.prompt_logprobs = 1
        scored = self.server.stub.Generate(message).choices[0]
        for mine, theirs in zip(logprobs["token_logprobs"][1:], scored.prompt_logprobs):
            self.assertAlmostEqual(mine, theirs.logprob, places=6)
        only = self.good(COMPLETIONS, {**body, "max_tokens": 0}).json()
        self.assertEqual(only["choices"][0]["logprobs"]["token_logprobs"],
                         logprobs["token_logprobs"][:-1])
        self.assertEqual(only["choices"][0]["text"], "The sum of 3 and 4")
        self.assertEqual(only["usage"]["completion_tokens"], 0)

    def test_completions_take_many_prompts(self):
        prompts = ["1, 2, 3,", "a b c", "Hello"]
        body = {"prompt": prompts, "temperature": 0, "n": 2, "echo": True}
        answer = self.good(COMPLETIONS, body).json()
        self.assertEqual([choice["index"] for choice in answer["choices"]], list(range(6)))
        for choice in answer["choices"]:
            self.assertTrue(choice["text"].startswith(prompts[choice["index"] // 2]))
            alone = self.good(COMPLETIONS, {**body, "n": 1,
                                            "prompt": prompts[choice["index"] // 2]})
            self.assertEqual(alone.json()["choices"][0]["text"], choice["text"])
        joined = {}
        finishes = {}
        for event in events_of(self.good(COMPLETIONS, {**body, "stream": True})):
            for choice in event["choices"]:
                joined[choice["index"]] = joined.get(choice["index"], "") + choice["text"]
                finishes[choice["index"]] = choice["finish_reason"]
        self.assertEqual(joined, {c["index"]: c["text"] for c in answer["choices"]})
        self.assertEqual(finishes, {c["index"]: c["finish_reason"] for c in answer["choices"]})
        self.assertLessEqual(answer["usage"]["completion_tokens"], 6 * 16)

    def as_items(self, messages):
        """Chat messages as items of /v1/responses."""
        items = []
        for message in messages:
            if message["role"] == "tool":
                items.append({"type": "function_call_output", "call_id": "c",
                              "output": message["content"]})
                continue
            if message["content"]:
                items.append({"role": message["role"], "content": message["content"]})
            for call in message.get("tool_calls") or []:
                items.append({"type": "function_call", "call_id": "c", **call["function"]})
        return items

    def test_responses_say_what_chats_say(self):
        """The same prompt, the same texts, and streams whose parts make the whole."""
        num_calls = 0
        for index, golden in enumerate(GOLDENS[::2]):
            with self.subTest(line=2 * index):
                body = golden_body(golden)
                chat = self.good(CHAT, body).json()
                mine = {"input": self.as_items(body["messages"]), "temperature": 0,
                        "max_output_tokens": 96, "include": [], "store": False,
                        "tools": [{"type": "function", **tool["function"]}
                                  for tool in golden["tools"] or []],
                        "reasoning": {"effort": "high" if golden["enable_thinking"] else "none"}}
                whole = self.good(RESPONSES, mine).json()
                self.assertEqual(whole["usage"]["input_tokens"],
                                 chat["usage"]["prompt_tokens"])
                self.assertEqual(whole["usage"]["output_tokens"],
                                 chat["usage"]["completion_tokens"])
                texts = whole_chat(chat["choices"][0])
                got = {"reasoning": "", "content": "", "tool_calls": []}
                for item in whole["output"]:
                    if item["type"] == "reasoning":
                        got["reasoning"] += item["content"][0]["text"]
                    elif item["type"] == "message":
                        got["content"] += item["content"][0]["text"]
                    else:
                        got["tool_calls"].append({name: item[name]
                                                  for name in ("name", "arguments")})
                self.assertEqual(got, {name: texts[name] for name in got})
                cut = texts["finish_reason"] == "length"
                self.assertEqual(whole["status"], "incomplete" if cut else "completed")
                num_calls += len(got["tool_calls"])
                self.check_events(named_events_of(
                    self.good(RESPONSES, {**mine, "stream": True})), whole)
        self.assertGreater(num_calls, 0)

    def check_events(self, events, whole):
        self.assertEqual([event["type"] for event in events[:2]],
                         ["response.created", "response.in_progress"])
        last = events[-1]
        self.assertEqual(last["type"], f"response.{whole['status']}")

        def bare(items):
            return [{key: value for key, value in item.items() if key not in ("id", "call_id")}
                    for item in items]
        self.assertEqual(bare(last["response"]["output"]), bare(whole["output"]))
        self.assertEqual(last["response"]["usage"]["output_tokens"],
                         whole["usage"]["output_tokens"])
        done = [event["item"] for event in events
                if event["type"] == "response.output_item.done"]
        self.assertEqual(done, last["response"]["output"])
        for place, item in enumerate(done):
            joined = "".join(event["delta"] for event in events if event["type"].endswith(".delta")
                             and event["output_index"] == place)
            self.assertEqual(joined, item["arguments"] if item["type"] == "function_call"
                             else item["content"][0]["text"])

    def test_responses_refuse_what_is_not_there(self):
        for change, param in (
                ({"input": None}, "input"), ({"input": [{"type": "file_search_call"}]},
                                             "input[0].type"),
                ({"previous_response_id": "resp_1"}, "previous_response_id"),
                ({"background": True}, "background"),
                ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
                ({"tool_choice": "required"}, "tool_choice"),
                ({"text": {"format": {"type": "json"}}}, "text.format.type"),
                ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
                ({"max_output_tokens": 0}, "max_output_tokens"),
                ({"temperature": 2.5}, "temperature"), ({"input": []}, None)):
            with self.subTest(change=change):
                self.bad({"input": "Hi", **change}, param=param, path=RESPONSES)

    # ---- the same bounds and words -------------------------------------------------------------

    def grpc_error(self, path, value):
        message = chat_request("Hi")
        message.stopping.max_tokens = 16
        *parents, last = path.split(".")
        target = message
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
        try:
            self.server.stub.Generate(message)
        except grpc.RpcError as error:
            return error.code(), violations(error), error.details()
        return None, [], ""

    def test_every_numeric_field_has_the_same_bounds(self):
        for fields, edges in ((INTEGERS, INT_EDGES), (REALS, REAL_EDGES)):
            for path, name in fields.items():
                for value in edges:
                    if (name, value) == ("thinking_token_budget", -1):
                        continue  # none
                    with self.subTest(field=name, value=value):
                        code, named, details = self.grpc_error(path, value)
                        body = {**user("Hi", max_tokens=16), name: value}
                        if name == "top_logprobs":
                            body["logprobs"] = True
                        reply = self.chat(body)
                        if code is None:
                            self.assertEqual(reply.status, 200, reply.body)
                            continue
                        self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
                        self.assertEqual(reply.status, 400)
                        self.assertEqual(reply.error["param"], name)
                        self.assertIn(path, named)
                        words = details.split(": ", 1)[1].split("; ")[0]
                        self.assertIn(words.replace("max_tokens", name if "max" in name else
                                                    "max_tokens"), reply.error["message"])

    def test_numbers_that_are_none(self):
        for name in INTEGERS.values():
            for value in ("8", True, 1.5, [1], {}, 2**63, 1e400 if False else 1e30):
                self.bad({**user("Hi"), "logprobs": True, name: value}, param=name)
        for name in REALS.values():
            for value in ("1", True, [1]):
                self.bad({**user("Hi"), name: value}, param=name)
        for text in ("NaN", "Infinity", "-Infinity", "1e400"):
            body = json.dumps(user("Hi", temperature=777)).replace("777", text)
            self.assertEqual(post(self.port, CHAT, body.encode()).status, 400)
        self.assertEqual(self.chat(user("Hi", n=1.0, max_tokens=2.0)).status, 200)

    def test_null_is_absent_and_unknown_keys_are_ignored(self):
        names = list(INTEGERS.values()) + list(REALS.values()) + [
            "stop", "tools", "tool_choice", "stream", "stream_options", "response_format", "user",
            "logit_bias", "model", "seed", "store", "metadata", "functions"]
        body = {**user("Hi", max_tokens=2), **{name: None for name in names if
                                               name not in ("max_tokens", "temperature")}}
        self.good(CHAT, {**body, "unheard_of": {"a": [1]}, "user": "me", "store": True,
                         "metadata": {"a": "b"}, "service_tier": "auto"})

    # ---- errors --------------------------------------------------------------------------------

    def test_what_is_wrong_is_named(self):
        message = {"role": "user", "content": "Hi"}
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
        for change, param in (
                ({"messages": None}, "messages"), ({"messages": []}, None),
                ({"messages": "Hi"}, "messages"), ({"messages": [1]}, "messages[0]"),
                ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
                ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
                ({"messages": [{"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": "data:"}}]}]},
                 "messages[0].content[0].type"),
                ({"messages": [message, {"role": "assistant", "content": None,
                                         "tool_calls": [call]}, message]},
                 "messages[1].tool_calls[0].function.arguments"),
                ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
                ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
                ({"tools": [{**tool, "function": {"name": "f", "parameters": 5}}]},
                 "tools[0].function.parameters"),
                ({"tool_choice": "required"}, "tool_choice"),
                ({"tools": [tool], "tool_choice": {"type": "function",
                                                   "function": {"name": "g"}}}, "tool_choice"),
                ({"response_format": {"type": "json"}}, "response_format.type"),
                ({"response_format": {"type": "json_schema", "json_schema": {}}},
                 "response_format.json_schema.schema"),
                ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
                ({"guided_json": 5}, "guided_json"), ({"functions": []}, "functions"),
                ({"chat_template": "x"}, "chat_template"),
                ({"use_beam_search": True, "n": 17}, "n"),
                ({"use_beam_search": True, "n": 0}, "n"),
                ({"use_beam_search": True, "n": 3, "beam_width": 2}, "n"),
                ({"use_beam_search": True, "beam_width": 2**40}, "beam_width"),
                ({"use_beam_search": True, "n": 2, "temperature": 0.5}, "temperature"),
                ({"use_beam_search": True, "n": 2, "stop": "x"}, "stop"),
                ({"use_beam_search": True, "n": 2, "length_penalty": 11}, "length_penalty"),
                ({"use_beam_search": True, "n": 2, "early_stopping": 1}, "early_stopping"),
                ({"use_beam_search": True, "n": 2, "grammar_penalty": 1}, "grammar_penalty"),
                ({"length_penalty": 2}, "use_beam_search"),
                ({"stream_options": {"include_usage": True}}, "stream_options"),
                ({"top_logprobs": 2}, "top_logprobs"),
                ({"logit_bias": {"x": 1}}, "logit_bias.x"),
                ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
                ({"logit_bias": {"99999": 1}}, "logit_bias[99999]"),
                ({"stop": ["a"] * 17}, "stop"), ({"stop": [""]}, "stop[0].length"),
                ({"reasoning_effort": "extreme"}, "reasoning_effort"),
                ({"chat_template_kwargs": {"enable_thinking": "yes"}},
                 "chat_template_kwargs.enable_thinking"),
                ({"thinking_budget_tokens": -2}, "thinking_budget_tokens"),
                ({"max_completion_tokens": 5000}, "max_completion_tokens"),
                ({"modalities": ["audio"]}, "modalities")):
            with self.subTest(change=change):
                self.bad({**user("Hi"), **change}, param=param)
                if "stream_options" not in change:
                    self.bad({**user("Hi"), "stream": True, **change}, param=param)
        for body in ({}, {"prompt": None}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [99999]},
                     {"prompt": [-1]}, {"prompt": 5}, {"prompt": "a", "suffix": "b"},
                     {"prompt": "a", "best_of": 2}, {"prompt": "a", "max_tokens": 0}):
            with self.subTest(body=body):
                self.bad(body, path=COMPLETIONS)

    def test_routes_and_methods(self):
        self.bad(user("Hi", model="gpt-x"), status=404, param="model")
        self.good(CHAT, user("Hi", model="nano", max_tokens=1))
        card = request(self.port, "GET", "/v1/models").json()["data"][0]
        self.assertEqual((card["id"], card["object"], card["max_model_len"]),
                         ("nano", "model", 4096))
        self.assertEqual(request(self.port, "GET", "/v1/models/nano").json(), card)
        self.assertEqual(request(self.port, "GET", "/v1/models/other").status, 404)
        self.assertEqual(post(self.port, "/v1/embeddings", {"input": "a"}).status, 400)
        for path in ("/health", "/ping"):
            reply = request(self.port, "GET", path)
            self.assertEqual((reply.status, reply.body), (200, b""))
        head = request(self.port, "HEAD", "/health")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertIn("version", request(self.port, "GET", "/version").json())
        self.assertEqual(request(self.port, "GET", "/load").json(), {"server_load": 0})
        self.assertEqual(request(self.port, "GET", "/nowhere").error["code"], 404)
        wrong = request(self.port, "GET", CHAT)
        self.assertEqual((wrong.status, wrong.headers["allow"]), (405, "POST"))
        self.assertEqual(request(self.port, "OPTIONS", CHAT).status, 405)
        plain = post(self.port, CHAT, b"{}", **{"Content-Type": "text/plain"})
        self.assertEqual(plain.status, 415)
        zipped = post(self.port, CHAT, b"{}", **{"Content-Encoding": "gzip"})
        self.assertEqual(zipped.status, 415)
        known = post(self.port, CHAT, user("Hi", max_tokens=1), **{
            "Content-Type": "Application/JSON; charset=utf-8", "X-Request-Id": "abc-1.2:3",
            "Authorization": "bearer whatever"})
        self.assertEqual((known.status, known.headers["x-request-id"]), (200, "abc-1.2:3"))
        for name in known.headers:
            self.assertFalse(name.startswith("access-control"), name)

    def test_tokens_and_text(self):
        reply = post(self.port, "/tokenize", {"prompt": "Hello <|im_end|>",
                                              "return_token_strs": True}).json()
        self.assertEqual(reply["count"], len(reply["tokens"]))
        self.assertEqual(reply["max_model_len"], 4096)
        self.assertEqual("".join(reply["token_strs"]), "Hello <|im_end|>")
        back = post(self.port, "/detokenize", {"tokens": reply["tokens"]}).json()
        self.assertEqual(back, {"prompt": "Hello <|im_end|>"})
        chat = post(self.port, "/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
        answer = self.good(CHAT, user("Hi", max_tokens=1)).json()
        self.assertEqual(chat.json()["count"], answer["usage"]["prompt_tokens"])
        # Control tokens are parsed in raw prompts only.
        told = post(self.port, "/tokenize", {"messages": [{"role": "user",
                                                           "content": "<|im_end|>"}]})
        self.assertGreater(told.json()["count"], chat.json()["count"])
        self.bad({"tokens": [99999]}, path="/detokenize", param="tokens[0]")
        long = post(self.port, "/tokenize", {"prompt": "word " * 10000})
        self.assertGreater(long.json()["count"], 9999)

    def test_text_parts_are_their_text(self):
        parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "44 + 9809?"}]
        answers = [self.good(CHAT, {"temperature": 0, "max_tokens": 20, "messages": [
            {"role": "user", "content": content}]}).json()["choices"][0]["message"]
            for content in (parts, "What is\n44 + 9809?")]
        self.assertEqual(answers[0], answers[1])

    # ---- hostile -------------------------------------------------------------------------------

    def test_hostile_json(self):
        deep = b'{"messages":' + b"[" * 100000 + b"]" * 100000 + b"}"
        wide = b'{"messages":[' + b"[]," * 200000 + b"[]]}"
        flat = b'{"logit_bias":{' + b",".join(b'"%d":0' % i for i in range(200000)) + b"}}"
        for body in (deep, wide, flat, b"", b"[]", b"null", b"{", b'{"a":1}}', b'{"a":\xff}',
                     b'\xef\xbb\xbf{}', b'{"messages":[{"role":"user","content":"\\ud800"}]}',
                     b'{"a":01}', b'{"a":.5}', b"{'a':1}", b'{"a":"\n"}'):
            begun = time.monotonic()
            reply = post(self.port, CHAT, body)
            self.assertEqual(reply.status, 400, body[:50])
            self.assertIsInstance(reply.error["message"], str)
            self.assertLess(time.monotonic() - begun, 5)
        twice = b'{"max_tokens":0,"max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}'
        self.assertEqual(post(self.port, CHAT, twice).json()["usage"]["completion_tokens"], 1)

    def test_hostile_bytes(self):
        head = b"POST %s HTTP/1.1\r\nHost: h\r\n" % CHAT.encode()
        for data, status in (
                (head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
                (head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
                (head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
                (head + b"Content-Length : 2\r\n\r\n{}", 400),
                (head + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", 400),
                (head + b"X: \0\r\nContent-Length: 2\r\n\r\n{}", 400),
                (head + b"Content-Length: 99999999\r\n\r\n", 413),
                (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
                (head + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
                (b"\x16\x03\x01\x02\x00\x01\x00\n", 400),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)):
            reply = raw(self.port, data)
            self.assertTrue(reply.startswith(b"HTTP/1.1 %d " % status), (data[:80], reply[:80]))
            self.assertIn(b'"error"', reply)
            self.assertEqual(reply.count(b"\r\nDate: "), 1, reply)

    def test_a_client_that_goes_frees_the_server(self):
        body = json.dumps(user("Count for ever.", ignore_eos=True, max_tokens=3000)).encode()
        for stream in (b"false", b"true"):
            text = body[:-1] + b', "stream": ' + stream + b"}"
            connection = socket.create_connection(("127.0.0.1", self.port))
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s"
                               % (CHAT.encode(), len(text), text))
            deadline = time.monotonic() + 10
            while request(self.port, "GET", "/load").json()["server_load"] == 0:
                self.assertLess(time.monotonic(), deadline)
            connection.close()
            self.server.wait_idle(5)
        self.assertGreaterEqual(
            self.server.metrics()['tessera_requests_total{code="CANCELLED",method='
                                  '"ChatCompletions"}'], 2)

    def test_many_at_once_answer_what_each_answers_alone(self):
        texts = [f"What is {i} + {7 * i}?" for i in range(32)]
        bodies = [user(text, max_tokens=40, return_token_ids=True) for text in texts]
        alone = [self.good(CHAT, body).json()["choices"][0]["token_ids"] for body in bodies]
        together = [None] * len(bodies)

        def ask(index):
            events = events_of(post(self.port, CHAT, {**bodies[index], "stream": True}))
            together[index] = join_chat(events)[0]["token_ids"]
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(together, alone)


class HttpServerTest(unittest.TestCase):
    def test_origins_are_told_by_option(self):
        with Server("--http-cors-origin", "https://page.example") as server:
            def preflight(origin):
                return request(server.http_port, "OPTIONS", CHAT, headers={
                    "Origin": origin, "Access-Control-Request-Method": "POST"})
            good = preflight("https://page.example")
            self.assertEqual(good.status, 204)
            self.assertEqual(good.headers["access-control-allow-origin"], "https://page.example")
            self.assertNotIn("access-control-allow-credentials", good.headers)
            self.assertEqual(preflight("https://other.example").status, 405)
            answer = post(server.http_port, CHAT, user("Hi", max_tokens=1),
                          Origin="https://page.example")
            self.assertEqual(answer.headers["access-control-allow-origin"],
                             "https://page.example")

    def test_a_drain_ends_streams_in_order(self):
        with Server("--drain-timeout", 20, "--drain-delay", 1) as server:
            results = []
            body = user("Count.", ignore_eos=True, max_tokens=1500, stream=True)
            thread = threading.Thread(
                target=lambda: results.append(post(server.http_port, CHAT, body)))
            thread.start()
            while request(server.http_port, "GET", "/load").json()["server_load"] == 0:
                time.sleep(0.01)
            server.process.terminate()
            time.sleep(0.3)
            self.assertEqual(request(server.http_port, "GET", "/health").status, 503)
            thread.join()
            finish = [c["finish_reason"] for e in events_of(results[0]) for c in e["choices"]]
            self.assertEqual(finish[-1], "length")

    def test_ipv6_and_unix_sockets(self):
        with Server("--host", "::1") as server:
            import http.client
            connection = http.client.HTTPConnection("::1", server.http_port, timeout=10)
            connection.request("GET", "/version")
            self.assertEqual(connection.getresponse().status, 200)
            connection.close()


if __name__ == "__main__":
    unittest.main()
