"""Checks of deploy/observability. Each takes a folder with the files and returns what is wrong with
them, as sentences; none is no problem.
"""
import json
import re
import subprocess
import sys

import pypi_tools

pypi_tools.use("observability")

import yaml  # noqa: E402
from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: E402

UNIT_TESTS = ("rules_test.yaml", "burn_rates_test.yaml")
NAME = r"(?<![\w:$])(?:tessera[_:]|process_)[\w:]+|(?<![\w:$])up(?=\{)"
SELECTOR = re.compile(rf"({NAME})(?:\{{([^}}]*)\}})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def alerts(folder):
    return [rule for rule in rules(folder) if "alert" in rule]


def rules(folder):
    parsed = yaml.safe_load((folder / "rules.yaml").read_text())
    return [rule for group in parsed["groups"] for rule in group["rules"]]


def panels(folder):
    """[(title, query)] of the dashboard."""
    return [(panel["title"], target["expr"])
            for panel in json.loads((folder / "dashboard.json").read_text())["panels"]
            for target in panel.get("targets", [])]


def filled(query):
    """A query of the dashboard as Grafana sends it when everything is chosen."""
    return re.sub(r"\$(job|model_name|instance)\b", ".*", query.replace("$__rate_interval", "1m"))


def tool_problems(folder):
    """What Prometheus' and Alertmanager's own checks say."""
    found = []
    for command in (["promtool", "check", "config", "prometheus.yml"],
                    ["promtool", "check", "rules", "--lint-fatal", "rules.yaml"],
                    ["amtool", "check-config", "alertmanager.yml"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            found.append(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return found


def unit_test_problems(folder):
    done = subprocess.run(["promtool", "test", "rules", *UNIT_TESTS], cwd=folder,
                          capture_output=True, text=True)
    found = [] if done.returncode == 0 else [f"promtool test rules: {done.stdout}{done.stderr}"]
    fired = set()
    for file in UNIT_TESTS:
        for test in yaml.safe_load((folder / file).read_text())["tests"]:
            fired |= {case["alertname"] for case in test.get("alert_rule_test", [])
                      if case["exp_alerts"]}
    return found + [f"no unit test fires {rule['alert']}" for rule in alerts(folder)
                    if rule["alert"] not in fired]


def runbook_problems(folder, runbook):
    """Every alert has a severity that Alertmanager routes, a summary and a section; no section more."""
    found = []
    sections = set(re.findall(r"^## (\w+)$", runbook.read_text(), re.MULTILINE))
    for rule in alerts(folder):
        name = rule["alert"]
        if rule.get("labels", {}).get("severity") not in ("page", "ticket"):
            found.append(f"{name}: severity is neither page nor ticket")
        if not rule.get("annotations", {}).get("summary"):
            found.append(f"{name}: no summary")
        url = rule.get("annotations", {}).get("runbook_url")
        if url != f"docs/runbook.md#{name.lower()}":
            found.append(f"{name}: runbook_url is {url}")
        if name not in sections:
            found.append(f"{name}: docs/runbook.md has no such section")
        sections.discard(name)
    named = set(re.findall(r"Tessera[A-Z]\w+", (folder / "alertmanager.yml").read_text()))
    found += [f"alertmanager.yml: there is no alert {name}"
              for name in sorted(named - {rule["alert"] for rule in alerts(folder)})]
    return found + [f"docs/runbook.md: there is no alert {name}" for name in sorted(sections)]


def dashboard_problems(folder):
    """The JSON is that of the table, and Grafana's model of a dashboard loses nothing of it."""
    found = []
    text = (folder / "dashboard.json").read_text()
    made = subprocess.run([sys.executable, "dashboard.py"], cwd=folder, capture_output=True, text=True)
    if made.returncode != 0 or made.stdout != text:
        found.append(f"dashboard.json is not what dashboard.py prints (--write) {made.stderr[-300:]}")
    read = json.loads(text)
    again = json.loads(json.dumps(Dashboard.from_json(read), cls=JSONEncoder))
    return found + [f"dashboard.json: Grafana knows no {path}" for path in lost(read, again)]


def lost(before, after, path="dashboard"):
    """Paths of what is in `before` and not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [each for key, value in before.items()
                for each in (lost(value, after[key], f"{path}.{key}") if key in after
                             else [f"{path}.{key}"])]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [each for number, (a, b) in enumerate(zip(before, after))
                for each in lost(a, b, f"{path}[{number}]")]
    return [] if before == after else [path]


def series_problems(folder, series):
    """Every name, label and selection in rules and dashboard is found in these series."""
    by_name = {}
    for labels in series:
        by_name.setdefault(labels["__name__"], []).append(labels)
    found = []
    for rule in rules(folder):
        what = rule.get("alert") or rule["record"]
        found += _expression_problems(what, rule["expr"], by_name)
        for annotation in rule.get("annotations", {}).values():
            found += _label_problems(what, re.findall(r"\$labels\.(\w+)", annotation),
                                     rule["expr"], by_name)
    for title, query in panels(folder):
        found += _expression_problems(f"panel {title}", filled(query), by_name)
    return found


def _expression_problems(what, expression, by_name):
    found = []
    for name, matchers in SELECTOR.findall(expression):
        known = by_name.get(name, [])
        if not known:
            found.append(f"{what}: there is no metric {name}")
            continue
        wanted = MATCHER.findall(matchers or "")
        for label in [label for label, _, _ in wanted if not any(label in one for one in known)]:
            found.append(f"{what}: {name} has no label {label}")
        if not any(all(_matches(one, *matcher) for matcher in wanted) for one in known):
            found.append(f"{what}: {name}{{{matchers}}} selects nothing")
    labels = [label for group in GROUPING.findall(expression)
              for label in re.findall(r"\w+", group)]
    return found + _label_problems(what, labels, expression, by_name)


def _label_problems(what, labels, expression, by_name):
    there = {label for name, _ in SELECTOR.findall(expression) for one in by_name.get(name, [])
             for label in one}
    return [f"{what}: nothing in it has a label {label}" for label in labels if label not in there]


def _matches(series, label, operator, value):
    is_equal = bool(re.fullmatch(value, series.get(label, ""))) if "~" in operator \
        else series.get(label, "") == value
    return is_equal != operator.startswith("!")
