#!/usr/bin/env python3
"""What independent linters say of deploy/: checkov of the rendered overlays, hadolint of the
Containerfile. What we decide otherwise stands below, with the reason; seeded defects are the
controls.
"""
import copy
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import manifests  # noqa: E402
import pypi_tools  # noqa: E402

import yaml  # noqa: E402

TOOLS = pypi_tools.use("policy")
CONTAINERFILE = manifests.ROOT / "deploy/container/Containerfile"

# {check: (objects, why it is decided otherwise)}; the reason is for the reader.
DECIDED_OTHERWISE = {
    "CKV_K8S_43": (r".*", "an image's digest is known once it is built: docs/operations.md"),
    "CKV_K8S_15": (r".*", "a version's tag never moves: asking for it at every start delays a start"),
    "CKV_K8S_8": (r".*-workerTemplate", "a worker has no port; it ends with its head or its watchdog"),
    "CKV_K8S_9": (r".*-workerTemplate", "traffic goes to the head, which is ready once workers are"),
    "CKV_K8S_38": (r".*\.tessera-picker", "the picker lists pods with its token"),
}
# DL3008: packages are Debian stable's, taken with their security updates; the SBOM says which.
CONTAINER_DECIDED_OTHERWISE = ["DL3008"]


def run(program, *arguments):
    done = subprocess.run(
        [TOOLS / "bin" / program, *map(str, arguments)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(TOOLS), "NO_COLOR": "1"})
    if not done.stdout.strip():
        raise AssertionError(f"{program} says nothing (exit {done.returncode}): {done.stderr}")
    return json.loads(done.stdout)


def findings(overlays):
    """[(overlay, check, object, what the check is called)] of {name: documents}."""
    with tempfile.TemporaryDirectory() as folder:
        for name, documents in overlays.items():
            pathlib.Path(folder, f"{name}.yaml").write_text(yaml.safe_dump_all(understood(documents)))
        report = run("checkov", "--framework", "kubernetes", "--skip-download", "--directory",
                     folder, "--compact", "--quiet", "--soft-fail", "--output", "json")
    assert report["summary"]["parsing_errors"] == 0, report["summary"]
    return [(pathlib.Path(check["file_path"]).stem, check["check_id"], check["resource"],
             check["check_name"]) for check in report["results"]["failed_checks"]]


def complaints(found):
    nothing = ("(?!)", "")
    return [one for one in found
            if not re.fullmatch(DECIDED_OTHERWISE.get(one[1], nothing)[0], one[2])]


def understood(documents):
    """The same, with pods in place of sets of pods that the linter does not know."""
    plain = [d for d in documents if d["kind"] != "LeaderWorkerSet"]
    for document in documents:
        if document["kind"] != "LeaderWorkerSet":
            continue
        for field, template in manifests.templates(document):
            metadata = {"namespace": document["metadata"]["namespace"],
                        "name": f"{document['metadata']['name']}-{field.rpartition('.')[2]}",
                        "labels": template["metadata"]["labels"]}
            plain.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                          "spec": template["spec"]})
    return plain


def deployment(documents):
    return next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]


def box(documents):
    return deployment(documents)["containers"][0]


# (what is wrong, how to make it wrong, the check that must say so)
DEFECTS = [
    ("privileged", lambda d: box(d)["securityContext"].update(privileged=True), "CKV_K8S_16"),
    ("host network", lambda d: deployment(d).update(hostNetwork=True), "CKV_K8S_19"),
    ("no memory limit", lambda d: box(d)["resources"]["limits"].pop("memory"), "CKV_K8S_13"),
    ("writable root", lambda d: box(d)["securityContext"].update(readOnlyRootFilesystem=False),
     "CKV_K8S_22"),
    ("capabilities kept", lambda d: box(d)["securityContext"].pop("capabilities"), "CKV_K8S_37"),
    ("no readiness probe", lambda d: box(d).pop("readinessProbe"), "CKV_K8S_9"),
    ("another namespace", lambda d: next(x for x in d if x["kind"] == "Service")["metadata"].update(
        namespace="default"), "CKV_K8S_21"),
]


class PolicyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = {
            name: manifests.objects(manifests.render(manifests.KUBERNETES / "overlays" / name))
            for name in manifests.OVERLAYS}
        spoilt = {}
        for number, (_, spoil, _) in enumerate(DEFECTS):
            spoilt[f"defect-{number}"] = copy.deepcopy(cls.rendered["cpu-dev"])
            spoil(spoilt[f"defect-{number}"])
        cls.found = findings({**cls.rendered, **spoilt})  # one run: starting the linter takes longest

    def test_every_overlay_passes(self):
        self.assertEqual(complaints([one for one in self.found if one[0] in self.rendered]), [])

    def test_what_is_decided_otherwise_is_still_found(self):
        found = {one[1] for one in self.found if one[0] in self.rendered}
        self.assertEqual(set(DECIDED_OTHERWISE) - found, set(), "exceptions that nothing needs")

    def test_every_defect_is_found(self):
        for number, (what, _, check) in enumerate(DEFECTS):
            with self.subTest(defect=what):
                here = [one[1] for one in self.found if one[0] == f"defect-{number}"]
                self.assertIn(check, here)


class ContainerfileTest(unittest.TestCase):
    def complaints(self, text):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "Containerfile")
            file.write_text(text)
            ignored = [flag for code in CONTAINER_DECIDED_OTHERWISE for flag in ("--ignore", code)]
            return [one["code"] for one in run("hadolint", "--no-fail", "--format", "json", *ignored,
                                               file)]

    def test_it_passes(self):
        self.assertEqual(self.complaints(CONTAINERFILE.read_text()), [])

    def test_defects_are_found(self):
        text = CONTAINERFILE.read_text()
        for what, old, new, code in (
                ("a moving base", "FROM ${BASE} AS rootfs", "FROM debian:latest AS rootfs", "DL3007"),
                ("a relative folder", "WORKDIR /src", "WORKDIR src", "DL3000"),
                ("root at the end", "USER 65532:65532", "USER root", "DL3002"),
        ):
            with self.subTest(defect=what):
                self.assertIn(old, text)
                self.assertIn(code, self.complaints(text.replace(old, new)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
