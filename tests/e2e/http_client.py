"""An HTTP client of the standard library for the tests: JSON, server-sent events, raw bytes."""
import http.client
import json
import socket


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json()["error"]


def request(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        head = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, body, {**head, **(headers or {})})
        reply = connection.getresponse()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def post(port, path, body, **headers):
    return request(port, "POST", path, body, headers)


def events_of(reply):
    """The JSON of a stream's events; it must end with [DONE]."""
    lines = [line for line in reply.body.decode().split("\n\n") if line]
    data = [line[len("data: "):] for line in lines if not line.startswith(":")]
    assert data[-1] == "[DONE]", data[-3:]
    return [json.loads(item) for item in data[:-1]]


def named_events_of(reply):
    """The events of a stream of /v1/responses; their names and numbers are checked."""
    events = []
    for number, text in enumerate(reply.body.decode().strip().split("\n\n")):
        name, data = text.split("\n")
        event = json.loads(data[len("data: "):])
        assert name == f"event: {event['type']}" and event["sequence_number"] == number, text
        events.append(event)
    return events


def raw(port, data, half_close=False, timeout=10):
    """Sends bytes and reads to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def join_chat(events):
    """The message that a stream's deltas make: {choice index: message with finish_reason}."""
    choices = {}
    for event in events:
        for choice in event["choices"]:
            whole = choices.setdefault(choice["index"], {
                "content": "", "reasoning": "", "tool_calls": [], "logprobs": [],
                "token_ids": [], "finish_reason": None})
            assert whole["finish_reason"] is None, "output after the finish"
            delta = choice["delta"]
            whole["content"] += delta.get("content") or ""
            whole["reasoning"] += delta.get("reasoning") or ""
            assert delta.get("reasoning") == delta.get("reasoning_content")
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(whole["tool_calls"])
                    assert call["type"] == "function" and call["function"]["arguments"] == ""
                    whole["tool_calls"].append({"name": call["function"]["name"], "arguments": ""})
                else:
                    whole["tool_calls"][call["index"]]["arguments"] += \
                        call["function"]["arguments"]
            whole["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
            whole["token_ids"] += choice.get("token_ids", [])
            whole["finish_reason"] = choice["finish_reason"]
            whole["stop_reason"] = choice.get("stop_reason")
    return choices


def whole_chat(choice):
    """The same of an unstreamed answer's choice."""
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning", ""),
        "tool_calls": [dict(call["function"]) for call in message.get("tool_calls", [])],
        "logprobs": (choice["logprobs"] or {"content": []})["content"],
        "token_ids": choice.get("token_ids", []),
        "finish_reason": choice["finish_reason"],
        "stop_reason": choice["stop_reason"],
    }
