#!/usr/bin/env python3
"""The image: deploy/container/build.sh builds it with buildah from the binary under test, twice with
the same digest; it is small, has neither shell nor setuid files, and names its packages, those linked
statically too. podman runs it read-only, as its plain user, without capabilities and under limits; it
serves, drains and exits 0. Needs root, buildah, podman, runc and mmdebstrap; exits 77 and says so
where a machine cannot.
"""
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
os.environ["PATH"] += ":/usr/sbin"

import harness  # noqa: E402
import pypi_tools  # noqa: E402
from returning_server import free_ports  # noqa: E402

CONTAINER = harness.ROOT / "deploy/container"
REVISION = "0123456789abcdef0123456789abcdef01234567"
LIMIT = 120e6  # bytes of the CPU image
BASE = "docker.io/library/debian:12-slim"


def skip(why):
    print(f"SKIPPED: {why}", flush=True)
    sys.exit(77)


def base_archive():
    """Debian 12 as an archive, made here once a week: no image registry is asked."""
    home = pathlib.Path(os.environ.get("TESSERA_TOOLS_DIR")
                        or pathlib.Path.home() / ".cache/tessera/deploy-tools")
    archive = home / "debian-12.tar"
    if not archive.exists() or time.time() - archive.stat().st_mtime > 7 * 86400:
        home.mkdir(parents=True, exist_ok=True)
        fresh = home / f"debian-12-{os.getpid()}.tar"
        done = subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", fresh],
                              capture_output=True, text=True)
        if done.returncode != 0:
            skip(f"mmdebstrap cannot make a base: {done.stderr[-500:]}")
        fresh.rename(archive)
    return archive


def setUpModule():
    global STORE, OPTIONS
    if os.geteuid() != 0:
        skip("building with --isolation chroot needs root here")
    for program in ("buildah", "podman", "runc", "mmdebstrap"):
        if not shutil.which(program):
            skip(f"{program} (Debian package of that name) is not installed")
    STORE = tempfile.mkdtemp(prefix="tessera-images-")
    unittest.addModuleCleanup(remove_store)
    os.environ["CONTAINERS_CONF"] = str(CONTAINER / "containers.conf")
    OPTIONS = ["--root", f"{STORE}/root", "--runroot", f"{STORE}/run", "--storage-driver", "overlay"]
    tried = subprocess.run(["podman", *OPTIONS, "import", "-q", base_archive(), BASE],
                           capture_output=True, text=True)
    if tried.returncode != 0:
        skip(f"podman has no storage here: {tried.stderr[-500:]}")
    build()


def remove_store():
    subprocess.run(["podman", *OPTIONS, "rm", "-a", "-f"], capture_output=True)
    subprocess.run(["buildah", *OPTIONS, "umount", "-a"], capture_output=True)
    subprocess.run(["umount", "-R", f"{STORE}/root/overlay"], capture_output=True)
    shutil.rmtree(STORE, ignore_errors=True)


def build(*options):
    """Builds the image; its name."""
    done = subprocess.run(
        [CONTAINER / "build.sh", "--binary", pathlib.Path(harness.BIN).parent, "--base", BASE],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "REVISION": REVISION, "BUILDAH": " ".join(["buildah", *OPTIONS]), "BUILDAH_OPTIONS": " ".join(
            ["--isolation", "chroot", "--network", "host", "--pull-never", *options])})
    if done.returncode != 0:
        raise AssertionError(f"build.sh: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def podman(*arguments, check=True):
    done = subprocess.run(["podman", *OPTIONS, *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise AssertionError(f"podman {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout.strip()


class ContainerTest(unittest.TestCase):
    IMAGE = "localhost/tessera:0.1.0"

    def inspect(self):
        return json.loads(podman("image", "inspect", self.IMAGE))[0]

    def test_1_what_it_says_about_itself(self):
        facts = self.inspect()
        self.assertLess(facts["Size"], LIMIT)
        print(f"{facts['Size'] / 1e6:.1f} MB", flush=True)
        labels = facts["Labels"]
        self.assertEqual(labels["org.opencontainers.image.version"],
                         harness.run_tessera("version").stdout.split()[1])
        self.assertEqual(labels["org.opencontainers.image.revision"], REVISION)
        self.assertEqual(facts["Config"]["User"], "65532:65532")
        self.assertEqual(facts["Config"]["StopSignal"], "SIGTERM")

    def test_2_what_is_in_it(self):
        container = subprocess.run(["buildah", *OPTIONS, "from", "--pull-never", self.IMAGE], check=True,
                                   capture_output=True, text=True).stdout.strip()
        root = pathlib.Path(subprocess.run(["buildah", *OPTIONS, "mount", container], check=True,
                                           capture_output=True, text=True).stdout.strip())
        programs = [file for folder in ("usr/bin", "usr/sbin", "usr/local/bin")
                    for file in (root / folder).iterdir()]
        self.assertEqual([file.name for file in programs], ["tessera"])
        for file in root.rglob("*"):
            if file.is_file() and not file.is_symlink():
                self.assertEqual(file.stat().st_mode & 0o6000, 0, file)
        self.check_packages(root)
        subprocess.run(["buildah", *OPTIONS, "rm", container], check=True, capture_output=True)

    def check_packages(self, root):
        tools = pypi_tools.use("container")
        environment = {**os.environ, "PYTHONPATH": str(tools),
                       "DEBSBOM": f"{sys.executable} {tools}/bin/debsbom"}
        texts = [subprocess.run([CONTAINER / "sbom.sh", root], env=environment, check=True,
                                capture_output=True, text=True).stdout for _ in range(2)]
        self.assertEqual(texts[0], texts[1])
        document = json.loads(texts[0])
        self.assertEqual(document["spdxVersion"], "SPDX-2.3")
        packages = {package["name"]: package.get("versionInfo") for package in document["packages"]}
        for name in ("libgrpc-dev", "libgrpc++-dev", "libprotobuf-dev", "libabsl-dev", "libssl3", "libc6"):
            self.assertIn(name, packages)
            here = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], text=True,
                                  capture_output=True).stdout
            if name.endswith("-dev"):  # those of the machine that linked the binary
                self.assertEqual(packages[name], here)
        self.assertNotIn("binutils", packages)
        libraries = subprocess.run(["ldd", harness.BIN], capture_output=True, text=True).stdout
        for library in re.findall(r"^\s+(\S+) => /", libraries, re.MULTILINE):
            self.assertTrue(list(root.glob(f"**/{library}")), f"{library} is not in the image")

    def test_3_it_runs_locked_down_and_drains(self):
        port, metrics = free_ports(2)
        name = f"tessera-{os.getpid()}"
        tried = subprocess.run(
            ["podman", *OPTIONS, "run", "-d", "--name", name, "--network", "host", "--read-only",
             "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges",
             "-m", "2g", "--cpus", "1", "-v", f"{harness.NANO}:/models/model:ro", self.IMAGE,
             "serve", "/models/model", "--port", str(port), "--metrics-port", str(metrics),
             "--http-port", "0", "--drain-timeout", "20"], capture_output=True, text=True)
        if tried.returncode != 0 and os.environ.get("CI") != "true":
            self.skipTest(f"podman cannot run containers here: {tried.stderr[-500:]}")
        self.assertEqual(tried.returncode, 0, tried.stderr)
        server = harness.Server()
        server.metrics_port = metrics
        self.wait_ready(server, name)
        status = pathlib.Path(f"/proc/{podman('inspect', '-f', '{{.State.Pid}}', name)}/status").read_text()
        for line in ("Uid:\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            self.assertIn(line, status)
        stub = harness.pb_grpc.InferenceStub(harness.grpc.insecure_channel(f"127.0.0.1:{port}"))
        stream = stub.StreamGenerate(harness.chat_request("What is 44 + 9809?"), timeout=60)
        next(stream)
        stopping = subprocess.Popen(["podman", *OPTIONS, "stop", "-t", "30", name],
                                    stdout=subprocess.DEVNULL)
        choices, _ = harness.collect(stream)
        self.assertTrue(choices[0].HasField("finish"))
        self.assertEqual(stopping.wait(60), 0)
        self.assertEqual(podman("inspect", "-f", "{{.State.ExitCode}}", name), "0")

    def wait_ready(self, server, name):
        for _ in range(200):
            try:
                if server.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready: {podman('logs', name, check=False)}")

    def test_4_the_quick_start_works_to_the_letter(self):
        page = (harness.ROOT / "docs/operations.md").read_text()
        script = re.search(r"## Quick start\n.*?```sh\n(.*?)```", page, re.DOTALL)[1]
        if pathlib.Path(harness.BIN).parent != harness.ROOT / "build/cpu-release":
            self.skipTest("the page names build/cpu-release")
        # build.sh's own line runs as above, where there is a network; the others in a network of
        # their own, since they name ports.
        first, rest = script.split("\n", 1)
        self.assertEqual(first, "deploy/container/build.sh --binary build/cpu-release")
        with tempfile.TemporaryDirectory() as folder:
            wrapper = pathlib.Path(folder) / "podman"
            wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("podman")} {" ".join(OPTIONS)} "$@"\n')
            wrapper.chmod(0o755)
            done = subprocess.run(
                ["unshare", "--net", "bash", "-euc", f"ip link set lo up\n{rest}"], text=True,
                capture_output=True, cwd=harness.ROOT, timeout=120, stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("9853", done.stdout)
        self.assertEqual(podman("inspect", "-f", "{{.State.ExitCode}}", "tessera"), "0")

    def test_5_the_rendered_deployment_runs_as_podman_reads_it(self):
        manifests = importlib.import_module("manifests")
        documents = [d for d in manifests.objects(manifests.render(
            manifests.KUBERNETES / "overlays/cpu-dev")) if d["kind"] in ("ConfigMap", "Deployment")]
        deployment = next(d for d in documents if d["kind"] == "Deployment")
        self.fit_into_podman(deployment["spec"]["template"]["spec"])
        deployment["spec"]["replicas"] = 1
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "kube.yaml"
            file.write_text("---\n".join(manifests.yaml.safe_dump(d) for d in documents))
            options = " ".join(OPTIONS)
            done = subprocess.run(
                ["unshare", "--net", "bash", "-euc", f"""
                 ip link set lo up
                 podman {options} play kube {file} >&2
                 curl --silent --fail --retry 30 --retry-all-errors --retry-delay 1 \
                     http://127.0.0.1:9090/readyz
                 {harness.BIN} client 127.0.0.1:50051 --chat 'What is 44 + 9809?' --temperature 0
                 podman {options} stop -t 150 tessera-pod-0-tessera >&2
                 podman {options} inspect -f 'exit code {{{{.State.ExitCode}}}}' tessera-pod-0-tessera
                 """], capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL)
        podman("pod", "rm", "-f", "-a", check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("9853", done.stdout)
        self.assertIn("exit code 0", done.stdout)

    def fit_into_podman(self, pod):
        """What has no meaning without a cluster: registry, claims, probes (podman wants curl in the
        image for them), and a network of the pod's own."""
        container = pod["containers"][0]
        container.update(image=self.IMAGE, imagePullPolicy="Never",
                         resources={kind: {"cpu": "1", "memory": "1Gi"} for kind in ("requests", "limits")})
        for name in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):
            del container[name]
        pod["hostNetwork"] = True
        for volume in pod["volumes"]:
            if volume.pop("persistentVolumeClaim", None):
                volume["hostPath"] = {"path": str(harness.NANO), "type": "Directory"}
        for mount in container["volumeMounts"]:
            if mount["name"] == "models":
                mount["mountPath"] = "/models/model"

    def test_6_a_second_build_has_the_same_digest(self):
        first = self.inspect()["Digest"]
        build("--no-cache")
        self.assertEqual(self.inspect()["Digest"], first)


if __name__ == "__main__":
    unittest.main(verbosity=2)
