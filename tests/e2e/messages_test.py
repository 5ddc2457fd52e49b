"""Anthropic's Messages API: what coding assistants send, by a plain HTTP client."""
import json
import unittest
import urllib.error
import urllib.request

from harness import Server

ASK = {"model": "nano", "max_tokens": 200, "temperature": 0,
       "messages": [{"role": "user", "content": "What is 44 + 9809?"}]}
TOOL = {"name": "f", "description": "d",
        "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}},
                         "required": ["a"], "additionalProperties": False}}


class MessagesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def post(self, body, path="/v1/messages"):
        """(status, body text)"""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.http_port}{path}", json.dumps(body).encode(),
            {"content-type": "application/json", "x-api-key": "any",
             "anthropic-version": "2023-06-01"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ask(self, **members):
        status, text = self.post(ASK | members)
        self.assertEqual(status, 200, text)
        return json.loads(text)

    def events(self, **members):
        status, text = self.post(ASK | {"stream": True} | members)
        self.assertEqual(status, 200, text)
        events = []
        for block in text.strip().split("\n\n"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            self.assertEqual(name, f"event: {events[-1]['type']}")
        return events

    def test_an_answer(self):
        message = self.ask()
        self.assertRegex(message["id"], "^msg_")
        self.assertEqual((message["type"], message["role"], message["model"]),
                         ("message", "assistant", "nano"))
        self.assertEqual([block["type"] for block in message["content"]], ["thinking", "text"])
        self.assertEqual(message["content"][1]["text"], "9853")
        self.assertEqual((message["stop_reason"], message["stop_sequence"]), ("end_turn", None))
        usage = message["usage"]
        self.assertEqual(usage["output_tokens"], 81)
        counted = json.loads(self.post(ASK, "/v1/messages/count_tokens")[1])
        self.assertEqual(counted, {"input_tokens": usage["input_tokens"] +
                                   usage["cache_read_input_tokens"]})

    def test_an_answer_that_the_client_began(self):
        def text_of(message):
            return "".join(block.get("text", "") for block in message["content"])
        whole = text_of(self.ask(thinking={"type": "disabled"}))
        begun = [*ASK["messages"], {"role": "assistant", "content": whole[:2]}]
        self.assertEqual(text_of(self.ask(messages=begun)), whole[2:])

    def test_a_stream_says_the_same(self):
        for members in ({}, {"thinking": {"type": "disabled"}}, {"max_tokens": 7},
                        {"stop_sequences": ["85"]},
                        {"tools": [TOOL], "tool_choice": {"type": "any"}, "temperature": 0}):
            with self.subTest(members):
                whole = self.ask(**members)
                events = self.events(**members)
                self.assertEqual(events[0]["type"], "message_start")
                self.assertEqual(events[0]["message"]["content"], [])
                self.assertEqual(events[-1]["type"], "message_stop")
                self.assertEqual(events[-2]["delta"],
                                 {name: whole[name] for name in ("stop_reason", "stop_sequence")})
                self.assertEqual(events[-2]["usage"]["output_tokens"],
                                 whole["usage"]["output_tokens"])
                self.assertEqual(self.joined(events), self.without_ids(whole["content"]))

    def joined(self, events):
        blocks = []
        for event in events:
            if event["type"] == "content_block_start":
                self.assertEqual(event["index"], len(blocks))
                blocks.append(event["content_block"] | {"json": ""})
            elif event["type"] == "content_block_delta":
                delta = event["delta"]
                kind = {"text_delta": "text", "thinking_delta": "thinking",
                        "input_json_delta": "partial_json"}[delta["type"]]
                name = "json" if kind == "partial_json" else kind
                blocks[event["index"]][name] += delta[kind]
        for block in blocks:
            text = block.pop("json")
            if block["type"] == "tool_use":
                block["input"] = json.loads(text)
        return self.without_ids(blocks)

    @staticmethod
    def without_ids(blocks):
        return [{name: value for name, value in block.items() if name != "id"}
                for block in blocks]

    def test_ends(self):
        self.assertEqual(self.ask(max_tokens=7)["stop_reason"], "max_tokens")
        stopped = self.ask(stop_sequences=["85"])
        self.assertEqual((stopped["stop_reason"], stopped["stop_sequence"]),
                         ("stop_sequence", "85"))
        self.assertEqual(stopped["content"][-1], {"type": "text", "text": "9"})

    def test_tools_and_their_results(self):
        call = self.ask(tools=[TOOL], tool_choice={"type": "tool", "name": "f"})
        self.assertEqual(call["stop_reason"], "tool_use")
        block = call["content"][-1]
        self.assertEqual((block["type"], block["name"], list(block["input"])),
                         ("tool_use", "f", ["a"]))
        messages = ASK["messages"] + [
            {"role": "assistant", "content": call["content"]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": block["id"],
                 "content": [{"type": "text", "text": "7"}]},
                {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}}]}]
        answer = self.ask(messages=messages, tools=[TOOL], max_tokens=5,
                          system=[{"type": "text", "text": "Be brief."}])
        self.assertEqual(answer["usage"]["output_tokens"], 5)

    def test_errors_have_their_own_form(self):
        def error(body, path="/v1/messages"):
            status, text = self.post(body, path)
            answer = json.loads(text)
            self.assertEqual(answer["type"], "error")
            return status, answer["error"]["type"], answer["error"]["message"]

        status, kind, message = error({"messages": []})
        self.assertEqual((status, kind), (400, "invalid_request_error"))
        self.assertIn("messages: must have at least one message", message)
        self.assertEqual(error(ASK | {"model": "other"})[:2], (404, "not_found_error"))
        self.assertEqual(error({"messages": 1}, "/v1/messages/count_tokens")[0], 400)
        for change, said in (
                ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
                ({"messages": [{"role": "user", "content": [{"type": "image"}]}]},
                 "messages[0].content[0].type"),
                ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
                ({"thinking": {"type": "much"}}, "thinking.type"),
                ({"tool_choice": {"type": "x"}}, "tool_choice.type"),
                ({"max_tokens": 0}, "max_tokens"),
                ({"stream": True, "temperature": "warm"}, "temperature")):
            with self.subTest(said):
                status, kind, message = error(ASK | change)
                self.assertEqual((status, kind), (400, "invalid_request_error"))
                self.assertIn(said, message)


if __name__ == "__main__":
    unittest.main()
