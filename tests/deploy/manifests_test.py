#!/usr/bin/env python3
"""deploy/kubernetes without a cluster: every overlay renders, passes the schemas of the API versions
we name, and means what the binary does. Seeded defects are the controls: each must be found, by a
sentence that names the object and the field.
"""
import copy
import pathlib
import re
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import manifests  # noqa: E402
import meaning  # noqa: E402
import harness  # noqa: E402


def setUpModule():
    """Names of all metrics, from a page of a running server and not from its source."""
    global METRICS, RENDERED
    with harness.Server() as server:
        METRICS = set(re.findall(r"^# TYPE (\S+)", server.get("/metrics")[1], re.MULTILINE))
    RENDERED = {name: manifests.objects(manifests.render(manifests.KUBERNETES / "overlays" / name))
                for name in manifests.OVERLAYS}


def problems(documents, versions=manifests.VERSIONS):
    return manifests.schema_problems(documents, versions) + \
        meaning.meaning_problems(documents, harness.BIN, METRICS)


def find(documents, kind, name=None):
    return next(d for d in documents if d["kind"] == kind
                and (name is None or d["metadata"]["name"].startswith(name)))


def pod(documents):
    return find(documents, "Deployment", "tessera")["spec"]["template"]["spec"]


def box(documents):
    return pod(documents)["containers"][0]


def config(documents, old, new):
    data = find(documents, "ConfigMap", "tessera")["data"]
    assert old in data["tessera.yaml"], old
    data["tessera.yaml"] = data["tessera.yaml"].replace(old, new)


def worker(documents):
    return find(documents, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]


def put(target, *path):
    """Sets target[path…] to the last argument."""
    for step in path[:-2]:
        target = target[step]
    target[path[-2]] = path[-1]


def replace_argument(container, old, new):
    container["args"] = [new if argument == old else argument for argument in container["args"]]


# (what is wrong, overlay, how to make it wrong, what must be said)
DEFECTS = [
    ("probe of a port name that does not exist", "cpu-dev",
     lambda d: put(box(d), "readinessProbe", "httpGet", "port", "metric"),
     r"Deployment/tessera: .*tessera\.readinessProbe\.httpGet\.port: .*no port metric"),
    ("missing volume", "cpu-dev", lambda d: pod(d)["volumes"].pop(),
     r"Deployment/tessera: .*volumeMounts: volume shm does not exist"),
    ("16GB of memory", "cpu-dev", lambda d: put(box(d), "resources", "limits", "memory", "16GB"),
     r"Deployment/tessera: .*resources\.limits\.memory: 16GB is no quantity"),
    ("Service that selects nothing", "cpu-dev",
     lambda d: put(find(d, "Service"), "spec", "selector", {"app": "tessera"}),
     r"Service/tessera: spec\.selector: .*selects no pod"),
    ("misspelt flag", "cpu-dev", lambda d: box(d)["args"].extend(["--drain-time", "9"]),
     r"Deployment/tessera: .*args: the binary refuses them: .*drain-time"),
    ("misspelt option in the ConfigMap", "cpu-dev",
     lambda d: config(d, "drain-delay", "drain_delay_s"),
     r"Deployment/tessera: .*args: the binary refuses them: .*unknown option .drain-delay-s"),
    ("value that no option takes", "single-gpu", lambda d: config(d, "backend: cuda", "backend: gpu"),
     r"Deployment/tessera: .*args: the binary refuses them: .*gpu"),
    ("loopback", "cpu-dev", lambda d: config(d, '"0.0.0.0"', '"127.0.0.1"'),
     r"Deployment/tessera: .*args: host is 127\.0\.0\.1"),
    ("containerPort of another number", "cpu-dev",
     lambda d: put(box(d), "ports", 0, "containerPort", 50001),
     r"Deployment/tessera: .*ports\.grpc: is 50001, and the server listens on 50051"),
    ("containerPort of another number for HTTP", "cpu-dev",
     lambda d: put(box(d), "ports", 1, "containerPort", 8080),
     r"Deployment/tessera: .*ports\.http: is 8080, and the server listens on 8000"),
    ("HTTP port moved in the config only", "multi-node",
     lambda d: config(d, "http-port: 8000", "http-port: 80"),
     r"LeaderWorkerSet/tessera: .*ports\.http: is 8000, and the server listens on 80"),
    ("Service of an HTTP port that no pod has", "cpu-dev",
     lambda d: put(find(d, "Service"), "spec", "ports", 1, "targetPort", "api"),
     r"Service/tessera: spec\.ports\.http: api is no port"),
    ("policy for an HTTP port that no pod has", "gateway",
     lambda d: put(find(d, "NetworkPolicy", "tessera-gateway"), "spec", "ingress", 0, "ports", 1,
                   "port", 8080),
     r"NetworkPolicy/tessera-gateway: spec\.ingress\.ports: 8080 is no port"),
    ("open to everybody by mistake", "cpu-dev",
     lambda d: config(d, "insecure: true", "insecure: false"),
     r"Deployment/tessera: .*args: the server does not start: it has neither keys nor TLS"),
    ("metrics port moved in the config only", "cpu-dev",
     lambda d: config(d, "metrics-port: 9090", "metrics-port: 9100"),
     r"Deployment/tessera: .*ports\.metrics: is 9090, and the server listens on 9100"),
    ("grace shorter than the drain", "cpu-dev",
     lambda d: put(pod(d), "terminationGracePeriodSeconds", 30),
     r"Deployment/tessera: .*terminationGracePeriodSeconds: 30 s are less than"),
    ("drain that nobody notices", "cpu-dev", lambda d: config(d, "drain-delay: 15", "drain-delay: 0"),
     r"Deployment/tessera: .*args: drain-delay 0"),
    ("rollout faster than health checks", "cpu-dev",
     lambda d: find(d, "Deployment")["spec"].pop("minReadySeconds"),
     r"Deployment/tessera: spec\.minReadySeconds: "),
    ("environment that means nothing", "cpu-dev",
     lambda d: box(d)["env"].append({"name": "TESSERA_MAX_SEQS", "value": "8"}),
     r"Deployment/tessera: .*env\.TESSERA_MAX_SEQS: .*no such option"),
    ("variable that nothing defines", "cpu-dev",
     lambda d: box(d)["args"].extend(["--threads", "$(CPUS)"]),
     r"Deployment/tessera: .*\$\(CPUS\) stands for nothing"),
    ("ConfigMap that does not exist", "cpu-dev",
     lambda d: put(pod(d), "volumes", 0, "configMap", "name", "tessera-config"),
     r"Deployment/tessera: .*volumes\.config: ConfigMap tessera-config does not exist"),
    ("config mounted elsewhere", "cpu-dev",
     lambda d: put(box(d), "volumeMounts", 0, "mountPath", "/etc/config"),
     r"Deployment/tessera: .*args: no ConfigMap puts a file at /etc/tessera/tessera\.yaml"),
    ("field in the wrong place", "cpu-dev", lambda d: put(box(d), "hostNetwork", True),
     r"Deployment/tessera: spec\.template\.spec\.containers\.0: .*hostNetwork"),
    ("number as text", "cpu-dev",
     lambda d: put(find(d, "Deployment"), "spec", "replicas", "2"),
     r"Deployment/tessera: spec\.replicas: "),
    ("API version of long ago", "cpu-dev",
     lambda d: put(find(d, "PodDisruptionBudget"), "apiVersion", "policy/v1beta1"),
     r"PodDisruptionBudget/tessera: apiVersion: Kubernetes .* has no"),
    ("misspelt field of an object", "cpu-dev",
     lambda d: put(find(d, "PodDisruptionBudget"), "spec", "maxUnavailible", 1),
     r"PodDisruptionBudget/tessera: spec: .*maxUnavailible"),
    ("budget that protects nothing", "cpu-dev",
     lambda d: put(find(d, "PodDisruptionBudget"), "spec", "selector", "matchLabels",
                   {"app.kubernetes.io/name": "tesera"}),
     r"PodDisruptionBudget/tessera: spec\.selector: .*selects no pod"),
    ("root", "cpu-dev", lambda d: put(pod(d), "securityContext", "runAsNonRoot", False),
     r"Deployment/tessera: .*securityContext: the pod may run as root"),
    ("writable root", "cpu-dev",
     lambda d: put(box(d), "securityContext", "readOnlyRootFilesystem", False),
     r"Deployment/tessera: .*readOnlyRootFilesystem"),
    ("token", "cpu-dev", lambda d: pod(d).pop("automountServiceAccountToken"),
     r"Deployment/tessera: .*automountServiceAccountToken"),
    ("folder of the host", "cpu-dev",
     lambda d: pod(d)["volumes"].__setitem__(1, {"name": "models", "hostPath": {"path": "/models"}}),
     r"Deployment/tessera: .*volumes\.models: .*refuses hostPath"),
    ("unsized /dev/shm", "cpu-dev",
     lambda d: put(pod(d), "volumes", -1, {"name": "shm", "emptyDir": {"medium": "Memory"}}),
     r"Deployment/tessera: .*volumeMounts: /dev/shm is no memory of a given size"),
    ("wrong namespace", "cpu-dev",
     lambda d: put(find(d, "ConfigMap"), "metadata", "namespace", "default"),
     r"ConfigMap/tessera\S*: metadata\.namespace: default"),
    ("start shorter than a load", "cpu-dev",
     lambda d: put(box(d), "startupProbe", "failureThreshold", 30),
     r"Deployment/tessera: .*startupProbe: 470 GB"),
    ("liveness by readiness", "cpu-dev",
     lambda d: put(box(d), "livenessProbe", "httpGet", "path", "/readyz"),
     r"Deployment/tessera: .*livenessProbe: must ask /healthz"),
    ("image without a version", "cpu-dev",
     lambda d: put(box(d), "image", "registry.example.com/tessera:latest"),
     r"Deployment/tessera: .*image: .*names no version"),
    ("policy for a port that no pod has", "cpu-dev",
     lambda d: put(find(d, "NetworkPolicy"), "spec", "ingress", 0, "ports", 0, "port", "gprc"),
     r"NetworkPolicy/tessera: spec\.ingress\.ports: gprc is no port"),
    ("GPU in the limits only", "single-gpu",
     lambda d: box(d)["resources"]["requests"].pop("nvidia.com/gpu"),
     r"Deployment/tessera: .*resources\.nvidia\.com/gpu: .*equal in requests and limits"),
    ("more ranks than GPUs", "eight-gpu",
     lambda d: config(d, "data-parallel-size: 8", "data-parallel-size: 16"),
     r"Deployment/tessera: .*args: 16 ranks on 1 x 8 GPUs"),
    ("model too large for the GPUs", "single-gpu",
     lambda d: config(d, "served-model-name: Qwen3-8B", "served-model-name: Qwen3-235B-A22B"),
     r"Deployment/tessera: .*args: tessera plan: Qwen3-235B-A22B does not fit"),
    ("metric that does not exist", "single-gpu",
     lambda d: put(find(d, "ScaledObject"), "spec", "triggers", 0, "metadata", "query",
                   "sum(tessera_requests_waiting)"),
     r"ScaledObject/tessera: spec\.triggers: .*no metric tessera_requests_waiting"),
    ("threshold as a number", "single-gpu",
     lambda d: put(find(d, "ScaledObject"), "spec", "triggers", 0, "metadata", "threshold", 8),
     r"ScaledObject/tessera: spec\.triggers\.0\.metadata\.threshold: "),
    ("scaling nothing", "single-gpu",
     lambda d: put(find(d, "ScaledObject"), "spec", "scaleTargetRef", "name", "server"),
     r"ScaledObject/tessera: spec\.scaleTargetRef: server does not exist"),
    ("scraping another port", "single-gpu",
     lambda d: put(find(d, "PodMonitor"), "spec", "podMetricsEndpoints", 0, "port", "web"),
     r"PodMonitor/tessera: spec\.podMetricsEndpoints: web is no port"),
    ("worker that joins at another port", "multi-node",
     lambda d: replace_argument(worker(d)["containers"][0], "$(LWS_LEADER_ADDRESS):50052",
                                "$(LWS_LEADER_ADDRESS):7000"),
     r"LeaderWorkerSet/tessera: .*workerTemplate.*args: join is .*:7000"),
    ("worker with the flags of the leader", "multi-node",
     lambda d: worker(d)["containers"][0]["args"].extend(["--nodes", "2"]),
     r"LeaderWorkerSet/tessera: .*workerTemplate.*args: the binary refuses them: .*nodes"),
    ("group of another size", "multi-node",
     lambda d: put(find(d, "LeaderWorkerSet"), "spec", "leaderWorkerTemplate", "size", 3),
     r"LeaderWorkerSet/tessera: .*16 ranks on 3 x 8 GPUs"),
    ("key that is not mounted", "multi-node",
     lambda d: worker(d)["containers"][0]["volumeMounts"].pop(0),
     r"LeaderWorkerSet/tessera: .*cluster-key-file names .*no volume is mounted"),
    ("route with retries", "gateway",
     lambda d: put(find(d, "GRPCRoute"), "spec", "rules", 0, "retry", {"attempts": 3}),
     r"GRPCRoute/tessera: spec\.rules\.0: .*retry"),
    ("route of a service that does not exist", "gateway",
     lambda d: put(find(d, "GRPCRoute"), "spec", "rules", 0, "matches", 0, "method", "service",
                   "tessera.v1.Generate"),
     r"GRPCRoute/tessera: spec\.rules\.matches: there is no gRPC service tessera\.v1\.Generate"),
    ("route to a port that the Service lacks", "gateway",
     lambda d: put(find(d, "GRPCRoute"), "spec", "rules", 1, "backendRefs", 0, "port", 8080),
     r"GRPCRoute/tessera: spec\.rules\.backendRefs: Service tessera"),
    ("HTTP route with a time limit", "gateway",
     lambda d: put(find(d, "HTTPRoute"), "spec", "rules", 0, "timeouts", "request", "15s"),
     r"HTTPRoute/tessera: spec\.rules\.timeouts: cut long answers off"),
    ("HTTP route with a time limit that is none", "gateway",
     lambda d: put(find(d, "HTTPRoute"), "spec", "rules", 0, "timeouts", "request", "never"),
     r"HTTPRoute/tessera: spec\.rules\.0\.timeouts\.request: "),
    ("HTTP route of a path that is not served", "gateway",
     lambda d: put(find(d, "HTTPRoute"), "spec", "rules", 0, "matches", 0, "path", "value",
                   "/api/v1"),
     r"HTTPRoute/tessera: spec\.rules\.matches: /api/v1 is not where the API is"),
    ("HTTP route to the port of gRPC's", "gateway",
     lambda d: put(find(d, "HTTPRoute"), "spec", "rules", 0, "backendRefs", 0, "port", 8080),
     r"HTTPRoute/tessera: spec\.rules\.backendRefs: Service tessera"),
    ("HTTP route on the listener of gRPC", "gateway",
     lambda d: put(find(d, "HTTPRoute"), "spec", "parentRefs", 0, "sectionName", "grpc"),
     r"HTTPRoute/tessera: spec\.hostnames: no listener takes api\.inference\.example\.com"),
    ("HTTP route of a listener that does not exist", "gateway",
     lambda d: put(find(d, "HTTPRoute"), "spec", "parentRefs", 0, "sectionName", "https"),
     r"HTTPRoute/tessera: spec\.parentRefs: no Gateway tessera with that listener"),
    ("pool of another protocol", "gateway",
     lambda d: put(find(d, "InferencePool"), "spec", "appProtocol", "grpc"),
     r"InferencePool/tessera: spec\.appProtocol: "),
    ("picker that reads another metric", "gateway",
     lambda d: put(find(d, "ConfigMap", "tessera-picker"), "data", "picker-config.yaml",
                   find(d, "ConfigMap", "tessera-picker")["data"]["picker-config.yaml"].replace(
                       "tessera_kv_cache_usage_ratio", "tessera_kv_cache_usage_perc")),
     r"ConfigMap/tessera-picker\S*: data\.picker-config\.yaml\.kvUsageSpec: .*usage_perc"),
]


class ManifestsTest(unittest.TestCase):
    def test_every_overlay_is_right(self):
        for name, documents in RENDERED.items():
            with self.subTest(overlay=name):
                self.assertEqual(problems(documents), [])

    def test_components_stand_in_an_overlay_or_are_tried_here(self):
        used = " ".join(file.read_text() for file in
                        (manifests.KUBERNETES / "overlays").glob("*/kustomization.yaml"))
        alone = [folder.name for folder in sorted((manifests.KUBERNETES / "components").iterdir())
                 if f"components/{folder.name}" not in used]
        self.assertEqual(alone, ["api-keys", "tls", "weights-init"])
        for overlay in ("cpu-dev", "multi-node"):
            with manifests.composed(f"overlays/{overlay}", "components/api-keys",
                                    "components/tls") as folder:
                documents = manifests.objects(manifests.render(folder))
            self.assertEqual(problems(documents), [])
            # Who has keys or a certificate needs no permission to be open.
            config(documents, "insecure: true", "insecure: false")
            self.assertEqual(problems(documents, versions=("1.34",)), [])
            template = next(manifests.templates(next(
                d for d in documents if d["kind"] in ("Deployment", "LeaderWorkerSet"))))[1]
            secrets = {v["secret"]["secretName"] for v in template["spec"]["volumes"] if "secret" in v}
            self.assertLessEqual({"tessera-api-keys", "tessera-tls"}, secrets)
            volume = next(v for v in template["spec"]["volumes"] if v["name"] == "api-keys")
            volume["secret"]["defaultMode"] = 0o644
            self.assertRegex("\n".join(problems(documents, versions=("1.34",))),
                             r"volumes\.api-keys: everybody in the container can read the Secret")
        with manifests.composed("overlays/cpu-dev", "components/weights-init") as folder:
            documents = manifests.objects(manifests.render(folder))
        self.assertEqual(problems(documents), [])
        self.assertIn("initContainers", pod(documents))
        volume = next(v for v in pod(documents)["volumes"] if v["name"] == "models")
        self.assertEqual(set(volume), {"name", "ephemeral"})

    def test_every_defect_is_found(self):
        for what, overlay, spoil, expected in DEFECTS:
            with self.subTest(defect=what):
                documents = copy.deepcopy(RENDERED[overlay])
                spoil(documents)
                found = problems(documents, versions=("1.34",))
                self.assertTrue(any(re.match(expected, problem) for problem in found),
                                f"nothing like {expected} in {found}")

    def test_what_operators_bring_is_documented(self):
        text = (manifests.ROOT / "docs/operations.md").read_text()
        for kind, names in meaning.BROUGHT.items():
            for name in names:
                self.assertIn(f"`{name}`", text, f"{kind} {name}")
        for overlay in manifests.OVERLAYS:
            self.assertIn(f"`{overlay}`", text)
        for component in (manifests.KUBERNETES / "components").iterdir():
            self.assertIn(f"`{component.name}`", text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
