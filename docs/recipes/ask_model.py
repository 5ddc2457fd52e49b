"""What the recipes share: one question to a running server, with Python alone.

The server is TESSERA_URL, or http://127.0.0.1:8000. OpenAI's client library works as well: every
field here that it does not know goes into its `extra_body`.
"""
import json
import os
import urllib.error
import urllib.request

URL = os.environ.get("TESSERA_URL", "http://127.0.0.1:8000")


class Refused(Exception):
    """The server says what is wrong with the request, or why it cannot answer now."""


def chat(messages, **fields):
    """The first choice of a chat completion: {"message", "finish_reason", …}."""
    body = json.dumps({"messages": messages, **fields}).encode()
    request = urllib.request.Request(URL + "/v1/chat/completions", body,
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            return json.load(reply)["choices"][0]
    except urllib.error.HTTPError as error:
        raise Refused(json.load(error)["error"]["message"]) from error


def user(text):
    return {"role": "user", "content": text}
