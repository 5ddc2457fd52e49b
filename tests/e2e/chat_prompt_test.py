"""What a client can say about a chat's prompt: where it ends, what is repeated of it, and variables of
the template; by HTTP and by gRPC."""
import json
import pathlib
import tempfile
import unittest

import grpc

from harness import NANO, HostileTest, Server, chat_request, pb, violations
from http_client import events_of, join_chat, post

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is 44 + 9809?"}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


class ChatPromptTest(HostileTest):
    def setUp(self):
        self.port = self.server.http_port

    def good(self, path, body):
        reply = post(self.port, path, body)
        self.assertEqual(reply.status, 200, reply.body)
        return reply

    def bad(self, body, param):
        for path in (CHAT, "/tokenize"):
            reply = post(self.port, path, body)
            self.assertEqual((reply.status, reply.error["param"]), (400, param), reply.body)

    def begun(self):
        """A whole answer, and its request with the answer's beginning as the last message."""
        body = {"messages": QUESTION, "temperature": 0, "return_token_ids": True, **NO_THINKING}
        whole = self.good(CHAT, body).json()
        ids = whole["choices"][0]["token_ids"][:2]
        begin = self.good("/detokenize", {"tokens": ids}).json()["prompt"]
        messages = [*QUESTION, {"role": "assistant", "content": begin}]
        return whole, ids, {**body, "messages": messages, "continue_final_message": True}

    def test_an_answer_is_continued(self):
        whole, ids, body = self.begun()
        choice = self.good(CHAT, body).json()["choices"][0]
        text = whole["choices"][0]["message"]["content"]
        begin = body["messages"][-1]["content"]
        self.assertTrue(text.startswith(begin) and begin)
        self.assertEqual(begin + choice["message"]["content"], text)
        self.assertEqual(ids + choice["token_ids"], whole["choices"][0]["token_ids"])
        self.assertEqual(self.good("/tokenize", body).json()["tokens"],
                         whole["prompt_token_ids"] + ids)
        call = chat_request(QUESTION[0]["content"])
        call.chat.messages.add(role="assistant", content=begin)
        call.chat.continue_final_message = True
        call.reasoning.mode = pb.ReasoningOptions.MODE_NO_THINK
        self.assertEqual(self.server.stub.Generate(call).choices[0].text,
                         choice["message"]["content"])

    def test_thinking_is_over_where_an_answer_is_continued(self):
        """A budget for thinking neither cuts nor closes anything."""
        _, _, body = self.begun()
        plain = self.good(CHAT, body).json()["choices"][0]["message"]
        limited = self.good(CHAT, {**body, "thinking_token_budget": 1, "chat_template_kwargs":
                                   {"enable_thinking": True}}).json()["choices"][0]["message"]
        self.assertEqual(limited, plain)
        self.assertNotIn("reasoning", plain)

    def test_the_beginning_is_repeated_on_request(self):
        whole, _, body = self.begun()
        echoing = {**body, "echo": True, "n": 2}
        del echoing["return_token_ids"]
        texts = [choice["message"]["content"]
                 for choice in self.good(CHAT, echoing).json()["choices"]]
        self.assertEqual(texts, [whole["choices"][0]["message"]["content"]] * 2)
        stream = events_of(self.good(CHAT, {**echoing, "n": 1, "stream": True}))
        self.assertEqual(join_chat(stream)[0]["content"], texts[0])
        # There is nothing to repeat of a question.
        asked = {"messages": QUESTION, "temperature": 0, "echo": True, **NO_THINKING}
        self.assertEqual(self.good(CHAT, asked).json()["choices"][0]["message"]["content"],
                         whole["choices"][0]["message"]["content"])

    def test_contradictions_are_refused(self):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        answer = {"role": "assistant", "content": "Sure"}
        for change, param in (
                ({"add_generation_prompt": True}, "continue_final_message"),
                ({"messages": [*QUESTION, {**answer, "tool_calls": [call]}]},
                 "continue_final_message"),
                ({"continue_final_message": "yes"}, "continue_final_message"),
                ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
                ({"chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs.tools"),
                ({"chat_template_kwargs": {"add_generation_prompt": False}},
                 "chat_template_kwargs.add_generation_prompt"),
                ({"chat_template_kwargs": []}, "chat_template_kwargs")):
            with self.subTest(change=change):
                self.bad({"messages": [*QUESTION, answer], "continue_final_message": True, **change},
                         param)
        # The same bounds and words by gRPC.
        for fields, path in (
                ({"continue_final_message": True, "add_generation_prompt": True},
                 "chat.continue_final_message"),
                ({"template_variables": "[1]"}, "chat.template_variables"),
                ({"template_variables": '{"enable_thinking": true}'},
                 "chat.template_variables.enable_thinking")):
            request = chat_request("Hi")
            for name, value in fields.items():
                setattr(request.chat, name, value)
            with self.assertRaises(grpc.RpcError) as caught:
                self.server.stub.Generate(request)
            self.assertIn(path, violations(caught.exception))

    def test_variables_reach_the_template(self):
        with tempfile.TemporaryDirectory() as folder:
            own = pathlib.Path(folder) / "own.jinja"
            own.write_text("{{ style.names[1] }}{{ count + 1 }}{{ flag }}{{ enable_thinking }}"
                           "{% for m in messages %}[{{ m.content }}]{% endfor %}")
            variables = {"style": {"names": ["a", "<|im_end|>"]}, "count": 7, "flag": None}
            with Server("--chat-template", own) as server:
                tokens = post(server.http_port, "/tokenize", {
                    "messages": QUESTION, "chat_template_kwargs": {**variables,
                                                                   "enable_thinking": True},
                }).json()["tokens"]
                text = post(server.http_port, "/detokenize", {"tokens": tokens}).json()["prompt"]
                self.assertEqual(text, f"<|im_end|>8NoneTrue[{QUESTION[0]['content']}]")
                # What a client spells stays text.
                end = post(server.http_port, "/tokenize", {"prompt": "<|im_end|>"}).json()["tokens"]
                self.assertEqual(len(end), 1)
                self.assertNotIn(end[0], tokens)
                request = pb.TokenizeRequest()
                request.chat.CopyFrom(chat_request(QUESTION[0]["content"]).chat)
                request.chat.template_variables = json.dumps(variables)
                request.reasoning_mode = pb.ReasoningOptions.MODE_THINK
                self.assertEqual(list(server.stub.Tokenize(request).token_ids), tokens)


if __name__ == "__main__":
    unittest.main()
