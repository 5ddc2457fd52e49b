#!/usr/bin/env python3
"""Tests that need something of the machine, and that continuous integration must not go without.

  tests/must_not_skip.py BUILD_FOLDER

Reads what the last `tests/run.sh` left in BUILD_FOLDER (results of ctest and of GoogleTest) and
names every test below that was skipped or is not there. Exits 1 then if CI=true; elsewhere a
machine without promtool, ptrace or network namespaces may run the rest.
"""
import os
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

# Names of ctest, or of GoogleTest as Suite.Test.
REQUIRED = {
    "fault_multi_host": "network namespaces, which a container may forbid",
    "fault_hung_rank": "ptrace",
    "cuda_budgets": "nvcc and cuobjdump (deploy/install-cuda.sh)",
    "cuda_ptx": "nvcc (deploy/install-cuda.sh)",
    "deploy_balancers": "HAProxy and nginx (Debian), Envoy (PyPI)",
    "deploy_manifests": "kubectl and schemas from PyPI (tests/deploy/pypi_tools.py)",
    "deploy_observability": "prometheus, prometheus-alertmanager (Debian), PyYAML and Grafana's SDK (PyPI)",
    "deploy_policy": "checkov and hadolint from PyPI (tests/deploy/pypi_tools.py)",
    "deploy_pods": "root, network namespaces, bubblewrap and HAProxy",
    "engine_grammar_schemas": "jsonschema and its source (PyPI)",
    "engine_text_jinja2": "jinja2 (PyPI)",
    "gpu_bundle": "nvcc (deploy/install-cuda.sh)",
    "page_in_browser": "Chromium (Debian)",
    "clients_openai": "the openai package (PyPI)",
    "clients_tessera_client": "grpcio, grpcio-tools and setuptools (PyPI)",
    "e2e_operations": "promtool (Debian package prometheus)",
    "RecorderTest.PageIsCleanForPromtool": "promtool (Debian package prometheus)",
}


def results(folder):
    """{name: whether it ran} of all tests of both kinds."""
    ran = {}
    for case in ElementTree.parse(folder / "ctest.xml").iter("testcase"):
        ran[case.get("name")] = case.get("status") == "run" and case.find("skipped") is None
    for file in folder.glob("googletest/*.xml"):
        for suite in ElementTree.parse(file).iter("testsuite"):
            for case in suite.iter("testcase"):
                name = f"{suite.get('name')}.{case.get('name')}"
                ran[name] = case.get("result") == "completed"
    return ran


def main():
    ran = results(pathlib.Path(sys.argv[1]) / "test-results")
    must = os.environ.get("CI") == "true"
    missing = [name for name in REQUIRED if not ran.get(name)]
    for name in missing:
        what = "was skipped or failed" if name in ran else "does not exist"
        print(f"{'FAILED: ' if must else ''}{name} {what}; it needs {REQUIRED[name]}")
    print(f"must not skip: {len(REQUIRED)} tests, {len(missing)} did not run"
          + ("" if must or not missing else " (an error where CI=true)"))
    return 1 if must and missing else 0


if __name__ == "__main__":
    sys.exit(main())
