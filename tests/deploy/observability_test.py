#!/usr/bin/env python3
"""deploy/observability: the tools' own checks, unit tests of rules, a runbook section per alert, the
dashboard against its table; then live: Prometheus scrapes two servers by the shipped rules, every
query returns data, kill -9 of a server reaches a webhook through Alertmanager, and so does its return.
Only addresses and periods are replaced, in a copy. Seeded defects are the controls.
"""
import http.server
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

PROGRAMS = {"prometheus": "prometheus", "promtool": "prometheus",
            "prometheus-alertmanager": "prometheus-alertmanager", "amtool": "prometheus-alertmanager"}
for program, package in PROGRAMS.items():
    if not shutil.which(program):
        print(f"SKIPPED: {program} (Debian package {package}) is not installed", flush=True)
        sys.exit(77)

import harness  # noqa: E402
import monitoring  # noqa: E402
from harness import pb  # noqa: E402
from monitoring import yaml  # noqa: E402
from key_file import Keys, bearer  # noqa: E402
from returning_server import ReturningServer, free_ports  # noqa: E402

SHIPPED = harness.ROOT / "deploy/observability"
PODMONITOR = harness.ROOT / "deploy/kubernetes/components/podmonitor/podmonitor.yaml"
RUNBOOK = harness.ROOT / "docs/runbook.md"

# What, file, its text, the text with the defect, and what a check must say of it.
STATIC_DEFECTS = [
    ("threshold of an alert", "rules.yaml", "> 14.4 * 0.001", "> 144 * 0.001", "TesseraErrorsBurnFast"),
    ("share of another window", "rules.yaml", "ratio_rate3d > 0.001", "ratio_rate3d > 0.01",
     "TesseraErrorsBurnSlowly"),
    ("period of an alert", "rules.yaml", "for: 30m", "for: 3m", "TesseraLoadingLong"),
    ("codes of clients count", "rules.yaml", "INTERNAL|UNKNOWN", "INVALID_ARGUMENT|INTERNAL|UNKNOWN",
     "TesseraErrorsBurnFast"),
    ("calls that generate nothing count", "rules.yaml", 'method!~"Tokenize|Detokenize|Get.*|Abort", code',
     "code", "ratio_rate5m"),
    ("first tokens of another bucket", "rules.yaml", 'bucket:rate5m{le="1"}', 'bucket:rate5m{le="2.5"}',
     "TesseraSlowFirstTokens"),
    ("a slow rank of the whole fleet", "rules.yaml", "avg by (job, instance)", "max by (job, instance)",
     "TesseraSlowRank"),
    ("expression that does not parse", "rules.yaml", "tessera_engine_up{", "tessera_engine_up{{",
     "check rules"),
    ("alert without a test", "rules_test.yaml", "alertname: TesseraOpenFiles", "alertname: TesseraRefusing",
     "no unit test fires TesseraOpenFiles"),
    ("severity that is not routed", "rules.yaml", "labels: {severity: ticket}", "labels: {severity: info}",
     "neither page nor ticket"),
    ("runbook of another alert", "rules.yaml", "#tesseradown", "#tesserarefusing", "TesseraDown: runbook_url"),
    ("alert that is not in the runbook", "rules.yaml", "alert: TesseraDown", "alert: TesseraGone",
     "no such section"),
    ("section that has no alert", "rules.yaml", "alert: TesseraSlowRank", "alert: TesseraRank",
     "there is no alert TesseraSlowRank"),
    ("inhibition by an alert that is gone", "alertmanager.yml", "TesseraNotReady", "TesseraUnready",
     "there is no alert TesseraUnready"),
    ("receiver that does not exist", "alertmanager.yml", "receiver: pager", "receiver: page", "amtool"),
    ("rules that are not loaded", "prometheus.yml", "rule_files: [rules.yaml]", "rule_files: [rule.yaml]",
     "check config"),
    ("dashboard that is not the table's", "dashboard.json", "Ready servers", "Servers", "dashboard.py"),
    ("table that was not written", "dashboard.py", "Ready servers", "Servers", "dashboard.py"),
    ("key that Grafana does not know", "dashboard.json", '"refresh"', '"refreshed"', "knows no dashboard.refresh"),
]

# Found in what a live Prometheus has.
LIVE_DEFECTS = [
    ("misspelt metric of a rule", "rules.yaml", "tessera_num_preemptions_total", "tessera_preemptions_total",
     "TesseraKvThrashing: there is no metric tessera_preemptions_total"),
    ("misspelt recorded name", "rules.yaml", "tessera:refused:ratio_rate5m >", "tessera:refusal:ratio_rate5m >",
     "TesseraRefusing: there is no metric tessera:refusal:ratio_rate5m"),
    ("label that the metric does not have", "rules.yaml", 'reason="overloaded"', 'cause="overloaded"',
     "tessera_rejected_total has no label cause"),
    ("value that the label does not have", "rules.yaml", 'reason="overloaded"', 'reason="overload"',
     "selects nothing"),
    ("another job", "rules.yaml", 'up{job="tessera"} == 0', 'up{job="Tessera"} == 0',
     "TesseraDown: up{job=\"Tessera\"} selects nothing"),
    ("sum by a label that nothing has", "rules.yaml", "sum by (job, model_name, le)", "sum by (job, model, le)",
     "nothing in it has a label model"),
    ("annotation of a label that nothing has", "rules.yaml", "Rank {{ $labels.rank }}", "Rank {{ $labels.number }}",
     "TesseraSlowRank: nothing in it has a label number"),
    ("misspelt metric of a panel", "dashboard.json", "tessera_step_age_seconds", "tessera_step_age",
     "panel Age of the last step: there is no metric tessera_step_age"),
    ("phase that does not exist", "dashboard.json", 'phase=\\"decode\\"', 'phase=\\"decoding\\"', "selects nothing"),
    ("bucket of another histogram", "dashboard.json", "tessera_iteration_tokens_bucket",
     "tessera_iteration_tokens_total_bucket", "there is no metric tessera_iteration_tokens_total_bucket"),
]


def static_problems(folder):
    """The cheap checks first: what they find needs no unit tests."""
    return (monitoring.tool_problems(folder)
            or monitoring.runbook_problems(folder, RUNBOOK) + monitoring.dashboard_problems(folder)
            or monitoring.unit_test_problems(folder))


class Copied(unittest.TestCase):
    """Checks copies of the shipped folder, each with one defect."""

    def find_all(self, defects, problems):
        for what, file, old, new, expected in defects:
            with self.subTest(what), tempfile.TemporaryDirectory() as parent:
                folder = pathlib.Path(shutil.copytree(SHIPPED, pathlib.Path(parent) / "copy"))
                text = (folder / file).read_text()
                self.assertIn(old, text)
                (folder / file).write_text(text.replace(old, new))
                found = problems(folder)
                self.assertTrue(any(expected in each for each in found),
                                f"nothing like {expected} in {found}")


class StaticTest(Copied):
    def test_nothing_is_wrong(self):
        self.assertEqual(static_problems(SHIPPED), [])

    def test_kubernetes_gives_the_same_job(self):
        monitor = yaml.safe_load(PODMONITOR.read_text())["spec"]
        job = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())["scrape_configs"][0]["job_name"]
        self.assertEqual(monitor["selector"]["matchLabels"][monitor["jobLabel"]], job)

    def test_seeded_defects_are_found(self):
        self.find_all(STATIC_DEFECTS, static_problems)


class Webhook:
    """Keeps what Alertmanager posts: (path, status, alertname, instance)."""

    def __init__(self):
        self.calls = calls = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    calls.append((self.path, alert["status"], alert["labels"]["alertname"],
                                  alert["labels"].get("instance")))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class LiveTest(Copied):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="observability-"))
        cls.processes = []
        cls.webhook = Webhook()
        # The second has ranks that exchange tokens and experts that may move, for the panels of those.
        keys = Keys(cls.folder)
        cls.key = keys.add("somebody", tenant="acme")  # for the panels of tenants
        cls.servers = [ReturningServer("--api-keys", keys.path), ReturningServer(
            "--tensor-parallel-size", 2, "--enable-expert-parallel", "--expert-rebalance-interval", 20)]
        try:
            for server in cls.servers:
                server.__enter__()
            cls.start_monitoring()
            cls.wait_for(cls.is_up, "Prometheus serves")
            cls.wait_for(lambda: cls.query('sum(up{job="tessera"})') == [2.0], "both are scraped")
            cls.traffic()
            cls.wait_for(lambda: cls.query("sum(tessera:generation_tokens:rate5m)")[-1:] > [0.0],
                         "rules see the traffic")
            time.sleep(2)  # rules that read other rules
        except BaseException:
            print(cls.logs(), flush=True)
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        for process in cls.processes:
            process.kill()
            process.wait()
        for server in cls.servers:
            if hasattr(server, "process") and server.process.poll() is None:
                server.end(signal.SIGKILL)
        cls.webhook.server.shutdown()
        shutil.rmtree(cls.folder)

    @classmethod
    def start_monitoring(cls):
        """The shipped files with our addresses and with seconds for minutes."""
        cls.port, manager = free_ports(2)
        targets = [f"127.0.0.1:{server.ports[1]}" for server in cls.servers]
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] = {name: "1s" for name in config["global"]}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{manager}"]
        rules = yaml.safe_load((SHIPPED / "rules.yaml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "2s"
        routing = (SHIPPED / "alertmanager.yml").read_text()
        assert "http://127.0.0.1:9095/" in routing
        routing = yaml.safe_load(routing.replace(":9095/", f":{cls.webhook.port}/"))
        for route in [routing["route"], *routing["route"]["routes"]]:
            route |= {"group_wait": "1s", "group_interval": "1s"}
        for name, document in (("prometheus.yml", config), ("rules.yaml", rules),
                               ("alertmanager.yml", routing)):
            (cls.folder / name).write_text(yaml.safe_dump(document))
        cls.run_here("prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=manager",
                     f"--web.listen-address=127.0.0.1:{manager}", "--cluster.listen-address=")
        cls.run_here("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                     f"--web.listen-address=127.0.0.1:{cls.port}")

    @classmethod
    def run_here(cls, program, *arguments):
        with open(cls.folder / f"{program}.log", "wb") as log:
            cls.processes.append(subprocess.Popen([program, *arguments], cwd=cls.folder,
                                                  stdout=log, stderr=log))

    @classmethod
    def logs(cls):
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in cls.folder.glob("*.log"))

    @classmethod
    def traffic(cls):
        """Streams, an answer over HTTP, an error and a stream that is given up, on both servers."""
        for server in cls.servers:
            for number in range(4):
                harness.collect(server.stub.StreamGenerate(
                    harness.chat_request(f"What is {number} + 9809?"), timeout=60,
                    metadata=bearer(cls.key)))
            body = {"model": "nano", "messages": [{"role": "user", "content": "What is 44 + 9809?"}]}
            request = urllib.request.Request(
                f"http://127.0.0.1:{server.http_port}/v1/chat/completions", json.dumps(body).encode(),
                {"content-type": "application/json", "authorization": f"Bearer {cls.key}"})
            urllib.request.urlopen(request, timeout=60).close()
            try:
                server.stub.Generate(pb.GenerateRequest(), timeout=60, metadata=bearer(cls.key))
            except harness.grpc.RpcError:
                pass
            endless = harness.chat_request("Hi", stopping=pb.StoppingOptions(max_tokens=3000, ignore_eos=True))
            stream = server.stub.StreamGenerate(endless, timeout=60, metadata=bearer(cls.key))
            next(stream)
            stream.cancel()

    @classmethod
    def api(cls, path, **parameters):
        url = f"http://127.0.0.1:{cls.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]

    @classmethod
    def is_up(cls):
        try:
            return cls.api("status/runtimeinfo")
        except OSError:
            return None

    @classmethod
    def query(cls, expression):
        """The values of an instant query."""
        try:
            answer = cls.api("query", query=expression)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return [float(each["value"][1]) for each in answer["result"]]

    @classmethod
    def wait_for(cls, condition, what, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {seconds} s: {what}\n{cls.logs()}")
            time.sleep(0.2)

    def all_rules(self):
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]

    def test_1_rules_are_healthy_and_no_alert_fires(self):
        self.wait_for(lambda: all(rule["health"] == "ok" for rule in self.all_rules()), "rules are well")
        self.assertEqual(len(self.all_rules()), len(monitoring.rules(SHIPPED)))
        self.assertEqual([rule["name"] for rule in self.all_rules() if rule.get("state") == "firing"], [])
        self.assertEqual(self.webhook.calls, [])

    def test_2_names_and_labels_are_those_of_the_servers(self):
        series = self.api("series", **{"match[]": '{__name__!=""}'})
        self.assertEqual(monitoring.series_problems(SHIPPED, series), [])
        self.find_all(LIVE_DEFECTS, lambda folder: monitoring.series_problems(folder, series))

    def test_3_every_query_of_the_dashboard_returns_data(self):
        asked = monitoring.panels(SHIPPED)
        self.assertGreater(len(asked), 70)
        for title, query in asked:
            values = self.query(monitoring.filled(query))
            self.assertTrue([value for value in values if not math.isnan(value)],
                            f"{title}: {query} returns {values}")

    def test_4_variables_of_the_dashboard_have_values(self):
        listed = json.loads((SHIPPED / "dashboard.json").read_text())["templating"]["list"]
        queries = [each["query"]["query"] for each in listed if each["type"] == "query"]
        self.assertEqual(len(queries), 3)
        for query in queries:
            selector, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            series = self.api("series", **{"match[]": monitoring.filled(selector)})
            self.assertTrue(all(label in each for each in series) and series, query)

    def test_5_a_killed_server_is_told_and_so_is_its_return(self):
        server = self.servers[0]
        instance = f"127.0.0.1:{server.ports[1]}"
        begin = time.monotonic()
        server.end(signal.SIGKILL)
        self.wait_for(lambda: ("/page", "firing", "TesseraDown", instance) in self.webhook.calls,
                      "the alert fires")
        fired = time.monotonic() - begin
        server.__enter__()
        begin = time.monotonic()
        self.wait_for(lambda: ("/page", "resolved", "TesseraDown", instance) in self.webhook.calls,
                      "the alert is resolved")
        print(f"fired after {fired:.1f} s, resolved {time.monotonic() - begin:.1f} s after the return",
              flush=True)
        # Another server served all the time: nobody is told otherwise.
        self.assertEqual({name for _, _, name, _ in self.webhook.calls}, {"TesseraDown"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
