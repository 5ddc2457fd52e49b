#!/usr/bin/env python3
"""The bundle for a machine with GPUs, rehearsed on one without.

  bundle_test.py --build BUILD_FOLDER

Makes the bundle (its size is checked there), and runs it where nothing of this machine is to be seen
but bash and coreutils: in an empty root, or, where that is forbidden, in another folder with an empty
environment, after looking where the loader would take each library from.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = ("awk bash cat chmod cmp cp cut date df dirname env grep head kill ls mkdir mktemp paste rm sed sh sleep sort "
         "tail tee timeout tr").split()
CHROOT = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin:/bin")
BUILD = ""


def libraries_of(program):
    """Paths of what the machine's loader loads for a program of this machine, itself included."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [word for word in lines.split() if word.startswith("/")]


def copy_into(root, path):
    target = root / str(path).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)


def make_root(root):
    """What a bare machine has, and no library of ours."""
    for tool in TOOLS:
        path = shutil.which(tool)
        if path is None:
            raise RuntimeError(f"no {tool} on this machine")
        copy_into(root, path)
        for library in libraries_of(path):
            copy_into(root, library)
    (root / "bin").mkdir(exist_ok=True)
    for tool in TOOLS:
        if not (root / "bin" / tool).exists():
            shutil.copy2(shutil.which(tool), root / "bin" / tool)
    for folder in ("tmp", "proc", "dev"):
        (root / folder).mkdir(exist_ok=True)
    for node in ("null", "urandom"):
        (root / "dev" / node).touch()


class BundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tessera-bundle-")
        cls.root = pathlib.Path(cls.folder.name)
        cls.bundle = cls.root / "bundle"
        subprocess.run([HERE / "bundle.sh", "--build", BUILD, cls.bundle], check=True,
                       stdout=subprocess.DEVNULL)
        make_root(cls.root)
        cls.rooted = cls.inside("true").returncode == 0

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def inside(cls, command):
        """Runs a line of bash in the root, in namespaces of its own."""
        script = (f"mount -t proc proc {cls.root}/proc && "
                  f"for f in null urandom; do mount --bind /dev/$f {cls.root}/dev/$f; done && "
                  f"exec env -i PATH=/usr/bin:/bin {CHROOT} {cls.root} /bin/bash -c '{command}'")
        return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork",
                               "bash", "-c", script], capture_output=True, text=True, timeout=560)

    def run_bundle(self, *arguments):
        command = " ".join(["/bundle/run.sh", *arguments])
        if self.rooted:
            return self.inside(command)
        print("unshare is forbidden here: the bundle runs in the machine's root", file=sys.stderr)
        return subprocess.run([str(self.bundle / "run.sh"), *[a.replace("/tmp/", f"{self.root}/tmp/")
                                                              for a in arguments]],
                              env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=560)

    def test_every_library_comes_from_the_bundle(self):
        lib = self.bundle / "lib"
        for program in sorted((self.bundle / "bin").iterdir()):
            listed = subprocess.run(
                [lib / "ld-linux-x86-64.so.2", "--library-path", lib, "--list", program],
                capture_output=True, text=True, check=True).stdout
            paths = [pathlib.Path(word) for word in listed.split() if word.startswith("/")]
            self.assertTrue(paths, program)
            self.assertEqual([p for p in paths if p.parent != lib and p.name != "ld-linux-x86-64.so.2"], [],
                             program)

    def test_without_a_gpu_one_sentence_says_so(self):
        result = self.run_bundle("/tmp/none")
        self.assertEqual(result.returncode, 77, result.stdout + result.stderr)
        self.assertEqual(result.stderr.strip().splitlines()[-1],
                         "no GPU to run on: this machine has no NVIDIA driver")
        summary = json.loads((self.root / "tmp/none/summary.json").read_text())
        self.assertEqual([stage["stage"] for stage in summary["stages"]], ["facts"])

    def test_the_rehearsal_passes_every_stage(self):
        result = self.run_bundle("--emulated", "/tmp/out")
        out = self.root / "tmp/out"
        logs = "".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(out.glob("*.log")))
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr + logs)
        summary = json.loads((out / "summary.json").read_text())
        status = {stage["stage"]: stage["status"] for stage in summary["stages"]}
        self.assertEqual(status.pop("sanitizer"), "skipped")
        self.assertEqual(set(status.values()), {"passed"}, status)
        self.assertEqual(summary["device"]["gpus"][0]["peers"], [1])
        self.assertGreater(summary["steps"][0]["output_tokens_per_second"], 0)
        self.assertGreater(summary["steps"][0]["limit"], 0)
        self.assertGreater(len(summary["kernels"]), 10)
        for operation in summary["kernels"]:
            self.assertGreater(operation["limit_us"], 0, operation)
        self.assertIn("== summary", result.stdout)

    def test_a_failed_stage_is_named_and_the_others_run(self):
        golden = self.bundle / "data/reference/models/dense-bias/golden.json"
        text = golden.read_text()
        golden.write_text(text.replace('"nll": ', '"nll": 1'))
        try:
            result = self.run_bundle("--emulated", "/tmp/wrong")
        finally:
            golden.write_text(text)
        self.assertEqual(result.returncode, 1, result.stdout)
        summary = json.loads((self.root / "tmp/wrong/summary.json").read_text())
        status = {stage["stage"]: stage["status"] for stage in summary["stages"]}
        self.assertEqual(status["models"], "failed")
        self.assertEqual(status["serve"], "passed")
        self.assertFalse(summary["passed"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    options, rest = parser.parse_known_args()
    BUILD = options.build
    os.environ["LC_ALL"] = "C"
    unittest.main(argv=[sys.argv[0], *rest])
