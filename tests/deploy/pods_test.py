#!/usr/bin/env python3
"""The rendered pods of deploy/kubernetes run: the container's command line, environment and files as
given, as user 65532 without capabilities on a read-only root, with its memory limit where the machine
has control groups, in a network namespace of its own. The test is the kubelet: it asks the probes at
their periods, replaces the pods one by one behind HAProxy while clients call, and times each drain.
Needs root and HAProxy; exits 77 and says so otherwise.
"""
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e"), str(HERE.parent / "support")]


def skip(why):
    print(f"SKIPPED: {why}", flush=True)
    sys.exit(77)


def enter_namespaces():
    """Starts this test again in namespaces that vanish with it: network, mounts, processes."""
    if os.environ.get("TESSERA_INSIDE"):
        return
    if os.geteuid() != 0:
        skip("pods of another user need root")
    for program, package in (("bwrap", "bubblewrap"), ("haproxy", "haproxy"), ("ip", "iproute2")):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
            skip(f"{program} (Debian package {package}) is not installed")
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        skip(f"namespaces are not permitted here: {tried.stderr.strip()}")
    os.environ["TESSERA_INSIDE"] = "1"
    os.environ["PATH"] += ":/usr/sbin"
    os.execvp("unshare", [*command, sys.executable, __file__, *sys.argv[1:]])


enter_namespaces()

import harness  # noqa: E402
import manifests  # noqa: E402
import meaning  # noqa: E402
from certificates import Authority  # noqa: E402

USER = 65532
NODE = "10.77.0.1"


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True)


def setUpModule():
    """A node: a bridge with an address, on which pods hang."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.makedirs("/run/netns")
    ip("link", "set", "lo", "up")
    ip("link", "add", "hub", "type", "bridge")
    ip("address", "add", f"{NODE}/24", "dev", "hub")
    ip("link", "set", "hub", "up")


def memory_group(name, limit):
    """A control group with this limit, or None where there are none; the pod enters it."""
    for root, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = pathlib.Path(root) / name
        try:
            folder.mkdir()
            (folder / file).write_text(str(int(limit)))
            return folder
        except OSError:
            if folder.is_dir():
                folder.rmdir()
    return None


class Pod:
    """One replica of an overlay's Deployment at an address of its own."""

    def __init__(self, documents, index, secrets=None):
        """`secrets`: {name: {file: content}}, which the operator would have made."""
        self.secrets = secrets or {}
        deployment = next(d for d in documents if d["kind"] == "Deployment"
                          and d["metadata"]["name"] == "tessera")
        template = deployment["spec"]["template"]
        self.spec = template["spec"]
        self.container = self.spec["containers"][0]
        self.process = manifests.Process(deployment, template, self.container, documents)
        assert not self.process.problems, self.process.problems
        self.index = index
        self.address = f"10.77.0.{index + 10}"
        self.ports = {p["name"]: p["containerPort"] for p in self.container["ports"]}
        self.settle = deployment["spec"]["minReadySeconds"]
        self.server = None

    def start(self):
        self.folder = tempfile.mkdtemp(prefix="pod-")
        os.chmod(self.folder, 0o755)
        self.name = name = f"pod{self.index}-{time.monotonic_ns()}"
        ip("netns", "add", name)
        # The same hardware address for the next pod of this index: neighbours need not ask again.
        ip("link", "add", f"p{time.monotonic_ns() % 10**9}", "master", "hub", "up", "type", "veth",
           "peer", "name", "eth0", "address", f"02:00:00:00:00:{self.index + 10:02x}", "netns", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        self.group = memory_group(f"tessera-{name}", meaning.amount(
            self.container["resources"]["limits"]["memory"]))
        enter = f"echo $$ > {self.group}/cgroup.procs; " if self.group else ""
        with open(f"{self.folder}/log", "wb") as log:
            self.server = subprocess.Popen(
                ["sh", "-c", enter + 'exec "$@"', "sh", "ip", "netns", "exec", name, *self._sandbox(),
                 "/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
                 "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--",
                 "/opt/tessera", *self.process.arguments],
                stdout=log, stderr=subprocess.STDOUT)

    def _sandbox(self):
        command = ["bwrap", "--die-with-parent", "--unshare-pid", "--clearenv", "--as-pid-1",
                   "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID",
                   "--cap-add", "CAP_SETPCAP", "--tmpfs", "/", "--ro-bind", "/usr", "/usr"]
        for link in ("lib", "lib64"):
            command += ["--symlink", f"usr/{link}", f"/{link}"]
        for folder in ("/opt", "/etc"):
            command += ["--perms", "0755", "--dir", folder]
        command += ["--ro-bind", harness.BIN, "/opt/tessera", "--proc", "/proc", "--dev", "/dev",
                    "--ro-bind-try", "/sys/fs/cgroup", "/sys/fs/cgroup"]
        for name, value in self.process.environment.items():
            command += ["--setenv", name, value]
        for path, volume in self.process.folders.items():
            command += self._volume(path, volume)
        return [*command, "--remount-ro", "/"]

    def _volume(self, path, volume):
        if "configMap" in volume:
            source = pathlib.Path(self.folder) / volume["name"]
            source.mkdir()
            for file, content in self.process.files.items():
                if file.startswith(f"{path}/"):
                    (source / os.path.basename(file)).write_text(content)
            return ["--ro-bind", str(source), path]
        if "secret" in volume:
            source = pathlib.Path(self.folder) / volume["name"]
            source.mkdir()
            for file, content in self.secrets[volume["secret"]["secretName"]].items():
                (source / file).write_bytes(content)
                os.chown(source / file, 0, USER)  # the pod's fsGroup
                (source / file).chmod(volume["secret"]["defaultMode"])
            return ["--ro-bind", str(source), path]
        if "persistentVolumeClaim" in volume:
            return ["--dir", path, "--ro-bind", str(harness.NANO), f"{path}/model"]
        size = meaning.amount(volume["emptyDir"]["sizeLimit"])
        return ["--perms", "1777", "--size", str(int(size)), "--tmpfs", path]

    def output(self):
        return pathlib.Path(f"{self.folder}/log").read_text()

    def probe(self, name):
        """One request of the kubelet; whether it passes."""
        probe = self.container[name]
        url = f"http://{self.address}:{self.ports['metrics']}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as reply:
                return reply.status < 400
        except OSError:
            return False

    def wait_started(self):
        """The startup probe at its period, as often as it is allowed to fail."""
        probe = self.container["startupProbe"]
        for _ in range(min(probe["failureThreshold"], 60)):  # the nano model loads in a second
            if self.probe("startupProbe"):
                return
            if self.server.poll() is not None:
                raise AssertionError(f"the container ended:\n{self.output()}")
            time.sleep(min(probe["periodSeconds"], 0.5))
        raise AssertionError("the startup probe never passed")

    def delete(self):
        """SIGTERM to the process; its exit code and the seconds it took, within the grace period."""
        begin = time.monotonic()
        os.kill(self.tessera(), signal.SIGTERM)
        code = self.server.wait(self.spec["terminationGracePeriodSeconds"])
        self.remove()
        return code, time.monotonic() - begin

    def remove(self):
        """Ends what is left of the pod."""
        if self.server.poll() is None:
            os.kill(self.tessera(), signal.SIGKILL)
            self.server.wait()
        for _ in range(100):  # until the kernel has counted the last process out
            try:
                if self.group and self.group.is_dir():
                    self.group.rmdir()
                break
            except OSError:
                time.sleep(0.05)
        if os.path.exists(f"/run/netns/{self.name}"):
            ip("netns", "delete", self.name)

    def tessera(self):
        """Process id of the server, seen from here."""
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "exe") in ("/opt/tessera", harness.BIN) and \
                        self._descends(int(folder.name)):
                    return int(folder.name)
            except OSError:
                continue
        raise AssertionError(f"no server runs:\n{self.output()}")

    def _descends(self, process):
        while process > 1:
            if process == self.server.pid:
                return True
            process = int(re.search(r"^PPid:\t(\d+)$", pathlib.Path(
                f"/proc/{process}/status").read_text(), re.MULTILINE)[1])
        return False


class Callers:
    """Clients that call through one address until they are stopped; what went wrong is kept."""

    def __init__(self, address, count=4):
        self.channel = harness.grpc.insecure_channel(address)
        self.stub = harness.pb_grpc.InferenceStub(self.channel)
        self.stop = threading.Event()
        self.done, self.failures = 0, []
        self.threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _call(self):
        while not self.stop.is_set():
            request = harness.chat_request("What is 44 + 9809?")
            request.stopping.max_tokens = 24
            try:
                choices, _ = harness.collect(self.stub.StreamGenerate(request, timeout=60))
                if not choices[0].HasField("finish"):
                    self.failures.append("a stream without finish")
                self.done += 1
            except harness.grpc.RpcError as error:
                self.failures.append(f"{time.monotonic():.1f} {error.code()}: {error.details()}")
                time.sleep(0.1)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.channel.close()


class PodsTest(unittest.TestCase):
    def test_a_rolling_restart_of_two_pods_loses_no_request(self):
        documents = manifests.objects(manifests.render(manifests.KUBERNETES / "overlays/cpu-dev"))
        pods = [Pod(documents, index) for index in range(2)]
        for pod in pods:
            pod.start()
            self.addCleanup(pod.remove)
        for pod in pods:
            pod.wait_started()
            self.assertTrue(pod.probe("readinessProbe"))
            self.assertTrue(pod.probe("livenessProbe"))
            self.check_constraints(pod)
        address = self.start_proxy(pods)
        callers = Callers(address)
        self.addCleanup(callers.end)
        time.sleep(2)
        for index, old in enumerate(pods):
            gone = threading.Thread(target=self.watch_readiness, args=(old,))
            gone.start()
            code, seconds = old.delete()
            gone.join()
            print(f"pod {index}: exit {code} after {seconds:.1f} s, at {time.monotonic():.1f}", flush=True)
            self.assertEqual(code, 0, old.output())
            config = manifests.yaml.safe_load(old.process.files["/etc/tessera/tessera.yaml"])
            self.assertGreaterEqual(seconds, config["drain-delay"] - 0.1)
            self.assertLess(seconds, config["drain-delay"] + 10)
            new = Pod(documents, index)
            new.start()
            self.addCleanup(new.remove)
            new.wait_started()
            pods[index] = new
            time.sleep(new.settle)  # the Deployment's pace
        served = callers.done
        callers.end()
        print(f"{callers.done} requests", flush=True)
        self.assertEqual(callers.failures, [], self.proxy_log())
        self.assertGreater(served, 50)
        for pod in pods:
            self.assertIn('code="OK"', self.metrics(pod), "a pod got no request after its restart")

    def watch_readiness(self, pod):
        """A pod that drains is out of the Service at once; nobody restarts it meanwhile."""
        time.sleep(pod.container["readinessProbe"]["periodSeconds"])
        self.assertFalse(pod.probe("readinessProbe"))
        self.assertTrue(pod.probe("livenessProbe"))

    def metrics(self, pod):
        with urllib.request.urlopen(
                f"http://{pod.address}:{pod.ports['metrics']}/metrics", timeout=5) as reply:
            return reply.read().decode()

    def check_constraints(self, pod):
        status = pathlib.Path(f"/proc/{pod.tessera()}/status").read_text()
        for line in (f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}", "CapEff:\t0000000000000000",
                     "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
            self.assertIn(line, status)
        root = pathlib.Path(f"/proc/{pod.tessera()}/mounts").read_text()
        self.assertRegex(root, r"(?m)^\S+ / tmpfs ro")
        threads = int(re.search(r"^Threads:\t(\d+)$", status, re.MULTILINE)[1])
        self.assertLess(threads, 80)
        if pod.group:
            print(f"memory limit by {pod.group}", flush=True)
            self.assertIn(str(pod.server.pid), (pod.group / "cgroup.procs").read_text().split())

    def start_proxy(self, pods):
        text = (ROOT / "deploy/balancers/haproxy.cfg").read_text()
        for name, old, pod in zip("ab", (51001, 51002), pods):
            line = f"server {name} 127.0.0.1:{old} check port {old + 90}"
            self.assertIn(line, text)
            text = text.replace(line, line.replace(str(old + 90), str(pod.ports["metrics"]))).replace(
                f"127.0.0.1:{old}", f"{pod.address}:{pod.ports['grpc']}")
        folder = self.proxy_folder = tempfile.mkdtemp()
        pathlib.Path(f"{folder}/haproxy.cfg").write_text(text)
        with open(f"{folder}/log", "wb") as log:
            proxy = subprocess.Popen(["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"], cwd=folder,
                                     stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.terminate)
        address = "127.0.0.1:52000"
        channel = harness.grpc.insecure_channel(address)
        harness.grpc.channel_ready_future(channel).result(30)
        channel.close()
        time.sleep(2)
        self.assertIsNone(proxy.poll())
        return address

    def proxy_log(self):
        lines = pathlib.Path(f"{self.proxy_folder}/log").read_text().splitlines()
        return "\n".join(line for line in lines if "Server" in line or "backend" in line)

    def test_a_pod_with_keys_and_a_certificate(self):
        with manifests.composed("overlays/cpu-dev", "components/api-keys", "components/tls") as folder:
            documents = manifests.objects(manifests.render(folder))
        with tempfile.TemporaryDirectory() as made:
            keys = pathlib.Path(made) / "keys.yaml"
            key = harness.run_tessera("keys", "add", keys, "--name", "first", "--tenant",
                                      "acme").stdout.strip()
            authority = Authority(made)
            certificate, private = authority.issue("pod", hosts="IP:10.77.0.17")
            pod = Pod(documents, 7, {
                "tessera-api-keys": {"keys.yaml": keys.read_bytes()},
                "tessera-tls": {"tls.crt": certificate.read_bytes(), "tls.key": private.read_bytes()}})
            pod.start()
            self.addCleanup(pod.remove)
            pod.wait_started()
            ca, trust = authority.ca.read_bytes(), ssl.create_default_context(cafile=authority.ca)
        credentials = harness.grpc.ssl_channel_credentials(ca)
        with harness.grpc.secure_channel(f"{pod.address}:{pod.ports['grpc']}", credentials) as channel:
            stub = harness.pb_grpc.InferenceStub(channel)
            hello = harness.chat_request("Hi")
            with self.assertRaises(harness.grpc.RpcError) as refused:
                stub.Generate(hello, timeout=30)
            self.assertEqual(refused.exception.code(), harness.grpc.StatusCode.UNAUTHENTICATED)
            stub.Generate(hello, timeout=30, metadata=[("authorization", f"Bearer {key}")])
        request = urllib.request.Request(f"https://{pod.address}:{pod.ports['http']}/v1/models",
                                         headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=30, context=trust) as reply:
            self.assertEqual(reply.status, 200)
        self.assertTrue(pod.probe("readinessProbe"))
        self.assertNotIn(key, pod.output())

    def test_a_pod_without_its_gpu_says_so(self):
        documents = manifests.objects(manifests.render(manifests.KUBERNETES / "overlays/single-gpu"))
        pod = Pod(documents, 5)
        pod.start()
        self.addCleanup(pod.remove)
        self.assertEqual(pod.server.wait(60), 1)
        self.assertRegex(pod.output(), "(?i)gpu|driver|cuda")


if __name__ == "__main__":
    unittest.main(verbosity=2)
