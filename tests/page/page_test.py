"""The page that the server has at /, in a headless Chromium."""
import http.server
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

from browser import CHROMIUM, Browser  # noqa: E402
from harness import NANO, Server  # noqa: E402

SHOTS = pathlib.Path(os.environ.get("TESSERA_SCREENSHOTS", tempfile.gettempdir()))
SUM = "What is 44 + 9809?"
ANSWERED = "document.querySelectorAll('.turn.assistant > .foot').length === {}"
LAST = "[...document.querySelectorAll('.turn.assistant')].pop()"


def ask(browser, text):
    browser.js("document.getElementById('prompt').focus()")
    browser.type(text)
    browser.press("Enter", text="\r")


class RealServerTest(unittest.TestCase):
    def start(self, *flags, **size):
        server = self.enterContext(Server(*flags, model=NANO))
        browser = self.enterContext(Browser(**size))
        browser.open(f"http://127.0.0.1:{server.http_port}/")
        browser.wait("document.getElementById('model').dataset.id === 'nano'")
        return server, browser

    def test_a_conversation(self):
        _, browser = self.start()
        browser.screenshot(SHOTS / "welcome-1440.png")
        ask(browser, SUM)
        browser.wait(ANSWERED.format(1))
        self.assertEqual(browser.js(f"{LAST}.querySelector('.text').textContent"), "9853")
        self.assertRegex(browser.js(f"{LAST}.querySelector('summary').textContent"),
                         r"^Thought for [\d.]+ s$")
        self.assertRegex(browser.js(f"{LAST}.querySelector('.foot').textContent"),
                         r"first token \d+ ms[\d.]+ tokens/s81 tokens")
        self.assertTrue(browser.js("document.activeElement.id === 'prompt'"))
        browser.screenshot(SHOTS / "answer-1440.png")
        ask(browser, "What is 1 + 1?")
        browser.wait(ANSWERED.format(2))
        browser.js(f"[...{LAST}.querySelectorAll('button')].find(b => "
                   "b.textContent === 'Regenerate').click()")
        browser.wait(ANSWERED.format(2))
        self.assertEqual(browser.js("document.querySelectorAll('.turn').length"), 4)
        # It is there after the page is loaded anew, and gone after "New".
        browser.call("Page.reload")
        browser.wait(ANSWERED.format(2))
        browser.press("n", code="KeyN", modifiers=1)
        browser.wait("document.querySelectorAll('.turn').length === 0")
        browser.wait("/^[\\d.]+ ms$/.test(document.getElementById('step').textContent)")
        self.assertEqual(browser.complaints(), [])

    def test_a_stream_stopped_half_way_frees_the_server(self):
        server, browser = self.start("--backend", "queued", "--queued-step-delay-ms", 60)
        ask(browser, SUM)
        browser.wait("document.querySelector('.thinking.live .thoughts')?.textContent.length > 8")
        browser.screenshot(SHOTS / "thinking-1440.png")
        browser.press("Escape")
        server.wait_idle(seconds=2)
        browser.wait(ANSWERED.format(1))
        self.assertIn("stopped by you", browser.js(f"{LAST}.querySelector('.foot').textContent"))
        self.assertEqual(browser.complaints(), [])

    def test_a_telephone(self):
        _, browser = self.start(width=320, height=640)
        ask(browser, SUM)
        browser.wait(ANSWERED.format(1))
        self.assertEqual(browser.js("document.documentElement.scrollWidth"), 320)
        browser.screenshot(SHOTS / "answer-320.png")
        browser.js("document.getElementById('theme').click()")
        browser.screenshot(SHOTS / "answer-dark-320.png")
        browser.js("document.getElementById('settings-button').click()")
        self.assertEqual(browser.js("document.documentElement.scrollWidth"), 320)
        browser.screenshot(SHOTS / "settings-320.png")
        self.assertEqual(browser.complaints(), [])

    def test_it_can_be_left_out(self):
        server = self.enterContext(Server("--no-page"))
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/")
        self.assertEqual(caught.exception.code, 404)


class Actor(http.server.BaseHTTPRequestHandler):
    """The page as the real server sends it, in front of answers that the test makes up."""
    page = None  # (headers, body)
    answers = []  # of each request the chunks
    requests = []

    def log_message(self, *_):
        pass

    def respond(self, content_type, body, headers=()):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            headers, body = self.page
            policy = [("Content-Security-Policy", headers["Content-Security-Policy"])]
            return self.respond(headers["Content-Type"], body, policy)
        if self.path == "/metrics":
            return self.respond("text/plain", b"vllm:num_requests_running{a=\"b\"} 3\n")
        return self.respond("application/json", json.dumps({"data": [
            {"id": "<b>model</b>", "max_model_len": 7}]}).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(json.loads(body))
        chunks = self.answers.pop(0)
        if "error" in chunks[0]:
            self.send_response(400)
            self.end_headers()
            return self.wfile.write(json.dumps(chunks[0]).encode())
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
        return self.respond("text/event-stream", "".join(events).encode())


def chunk(finish=None, **delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">
# <svg onload=window.hacked=3>
- [link](javascript:window.hacked=4) <a href="javascript:window.hacked=5">x</a>
> **<iframe srcdoc="<script>parent.hacked=6</script>">**
```html
</code></pre><script>window.hacked = 7</script>
```
`<style>*{display:none}</style>` &lt;b&gt; \u202e <meta http-equiv=refresh content="0;url=//x">"""


class MadeUpAnswersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Server() as server:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/") as reply:
                Actor.page = reply.headers, reply.read()

    def setUp(self):
        Actor.answers, Actor.requests = [], []
        actor = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Actor)
        threading.Thread(target=actor.serve_forever, daemon=True).start()
        self.addCleanup(actor.server_close)
        self.addCleanup(actor.shutdown)
        self.browser = self.enterContext(Browser())
        self.browser.open(f"http://127.0.0.1:{actor.server_port}/")
        self.browser.wait("document.getElementById('model').dataset.id")

    def test_hostile_output_is_text(self):
        browser = self.browser
        Actor.answers = [[
            chunk(role="assistant", content=""), chunk(reasoning_content=HOSTILE),
            *[chunk(content=letter) for letter in HOSTILE],
            chunk(tool_calls=[{"index": 0, "id": "1", "type": "function",
                               "function": {"name": HOSTILE, "arguments": ""}}]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": HOSTILE}}]),
            chunk(finish="tool_calls")]]
        ask(browser, HOSTILE)
        browser.wait(ANSWERED.format(1))
        time.sleep(0.3)
        self.assertIsNone(browser.js("window.hacked ?? null"))
        foreign = "#talk :is(script, img, a, iframe, style, meta, link, object, embed, base)"
        self.assertEqual(browser.js(f"document.querySelectorAll('{foreign}').length"), 0)
        self.assertEqual(browser.js("[...document.querySelectorAll('#talk *')].flatMap(e => "
                                    "[...e.attributes]).filter(a => /^on|^style$/.test(a.name))"
                                    ".length"), 0)
        text = browser.js(f"{LAST}.querySelector('.text').textContent")
        self.assertIn("<script>window.hacked = 1</script><img src=x", text)
        self.assertEqual(browser.js(f"{LAST}.querySelector('.thoughts').textContent"), HOSTILE)
        self.assertEqual(browser.js(f"{LAST}.querySelector('.call b').textContent"), HOSTILE)
        self.assertEqual(browser.js("document.getElementById('model').textContent"),
                         "<b>model</b>")
        self.assertEqual(browser.complaints(), [])
        browser.screenshot(SHOTS / "hostile-1440.png")

    def test_a_tool_loop(self):
        browser = self.browser
        call = {"name": "weather", "arguments": json.dumps({"city": "Ulm"})}
        Actor.answers = [
            [chunk(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": call}]),
             chunk(finish="tool_calls")],
            [chunk(content="It is **12 degrees**:\n\n1. mild\n2. dry\n\n```\nx < 1\n```"),
             chunk(finish="stop")]]
        ask(browser, "Weather in Ulm?")
        browser.wait("document.querySelector('.call form')")
        browser.js("document.querySelector('.call textarea').focus()")
        browser.type('{"degrees": 12}')
        browser.js("document.querySelector('.call form button').click()")
        browser.wait(f"/12 degrees/.test({LAST}.textContent)")
        roles = [message["role"] for message in Actor.requests[1]["messages"]]
        self.assertEqual(roles, ["user", "assistant", "tool"])
        self.assertEqual(Actor.requests[1]["messages"][2],
                         {"role": "tool", "content": '{"degrees": 12}', "tool_call_id": "c1",
                          "name": "weather"})
        self.assertEqual(Actor.requests[1]["messages"][1]["tool_calls"][0]["function"], call)
        self.assertEqual(browser.js(f"[...{LAST}.querySelectorAll('.text > *')].map(e => "
                                    "e.tagName).join()"), "P,OL,PRE")
        self.assertEqual(browser.js(f"{LAST}.querySelector('strong').textContent"), "12 degrees")
        browser.screenshot(SHOTS / "tools-1440.png")

    def test_settings_reach_the_request(self):
        browser = self.browser
        Actor.answers = [[chunk(content="{}"), chunk(finish="stop")],
                         [{"error": {"message": "temperature: must be at most 2", "code": 400}}]]
        for name, value in {"temperature": "0.5", "seed": "7", "stop": "END", "system": "Be brief.",
                            "schema": '{"type": "object"}', "tools": "{"}.items():
            browser.js(f"(() => {{ const e = document.querySelector('[data-set={name}]'); "
                       f"e.value = {json.dumps(value)}; "
                       "e.dispatchEvent(new Event('input')); })()")
        self.assertIn("not JSON", browser.js("document.getElementById('tools-problem').textContent"))
        ask(browser, "x")
        self.assertEqual(Actor.requests, [], "what cannot be read is not sent")
        browser.js("(() => { const e = document.querySelector('[data-set=tools]'); e.value = ''; "
                   "e.dispatchEvent(new Event('input')); })()")
        browser.js("document.querySelector('[name=think][value=on]').click()")
        browser.js("(() => { const e = document.getElementById('budget'); e.value = 3; "
                   "e.dispatchEvent(new Event('input')); })()")
        ask(browser, "y")
        browser.wait(ANSWERED.format(1))
        sent = Actor.requests[0]
        self.assertEqual(sent["messages"][0], {"role": "system", "content": "Be brief."})
        self.assertEqual((sent["temperature"], sent["seed"], sent["stop"]), (0.5, 7, "END"))
        self.assertEqual(sent["response_format"]["json_schema"]["schema"], {"type": "object"})
        self.assertEqual(sent["chat_template_kwargs"], {"enable_thinking": True})
        self.assertEqual(sent["thinking_token_budget"], 128)
        ask(browser, "z")
        browser.wait("document.querySelector('.turn .problem')")
        self.assertEqual(browser.js("document.querySelector('.turn .problem').textContent"),
                         "temperature: must be at most 2")
        browser.screenshot(SHOTS / "settings-1440.png")


if __name__ == "__main__":
    if CHROMIUM is None:
        print("SKIPPED: there is no Chromium (Debian package chromium)", file=sys.stderr)
        sys.exit(77)
    SHOTS.mkdir(parents=True, exist_ok=True)
    unittest.main()
