"""What schemas cannot see: references, selectors, ports, quantities, and whether the binary itself
accepts what the manifests give it. Every problem names the object, the field and what is wrong.
"""
import functools
import os
import pathlib
import re
import subprocess
import tempfile

import yaml

from manifests import ROOT, Process, templates, title

QUANTITY = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?$")
SCALE = {"m": 1e-3, "": 1, **{unit: 1000.0 ** (i + 1) for i, unit in enumerate("kMGTPE")},
         **{f"{unit}i": 1024.0 ** (i + 1) for i, unit in enumerate("KMGTPE")}}
CLUSTER_WIDE = ("Namespace", "ClusterRole", "ClusterRoleBinding")
# Volumes that the policy "restricted" allows.
RESTRICTED_VOLUMES = {"configMap", "secret", "emptyDir", "ephemeral", "persistentVolumeClaim",
                      "projected", "downwardAPI", "csi", "name"}
# What the operator makes: docs/operations.md tells how.
BROUGHT = {"PersistentVolumeClaim": {"models"},
           "Secret": {"tessera-api-keys", "tessera-cluster", "tessera-gateway-tls", "tessera-tls",
                      "tessera-weights"}}
GPU_OF_PRODUCT = {"NVIDIA-H100-80GB-HBM3": "h100", "NVIDIA-H200": "h200"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
FINISH_SECONDS = 5  # from the end of the drain to the end of the process


def amount(quantity):
    match = QUANTITY.match(str(quantity))
    if not match:
        return None
    suffix = match[3] or ""
    number = str(quantity)[:len(str(quantity)) - len(suffix)]
    return float(number + suffix) if suffix[:1] in ("e", "E") and suffix[1:] else \
        float(number) * SCALE[suffix]


def covers(labels, selector):
    return bool(selector) and set(selector.items()) <= set((labels or {}).items())


class Meaning:
    """Checks one rendered overlay. `program` is the tessera binary, `metrics` the names it exports."""

    def __init__(self, documents, program, metrics):
        self.documents = documents
        self.program = program
        self.metrics = metrics
        self.problems = []
        self.pods = [(d, field, t) for d in documents for field, t in templates(d)]

    def run(self):
        self._names()
        for document, field, template in self.pods:
            self._pod(document, field, template)
        for document in self.documents:
            check = getattr(self, f"_{document['kind'].lower()}", None)
            if check:
                check(document, document.get("spec", {}))
        return self.problems

    def bad(self, document, field, sentence):
        self.problems.append(f"{title(document)}: {field}: {sentence}")

    def find(self, kind, name):
        return next((d for d in self.documents
                     if d["kind"] == kind and d["metadata"]["name"] == name), None)

    def selected(self, selector):
        return [t for _, _, t in self.pods if covers(t.get("metadata", {}).get("labels"), selector)]

    # Every object.

    def _names(self):
        namespaces = {d["metadata"]["name"] for d in self.documents if d["kind"] == "Namespace"}
        seen = set()
        for document in self.documents:
            if title(document) in seen:
                self.bad(document, "metadata.name", "stands twice")
            seen.add(title(document))
            namespace = document["metadata"].get("namespace")
            if document["kind"] not in CLUSTER_WIDE and namespace not in namespaces:
                self.bad(document, "metadata.namespace", f"{namespace} is none of this overlay")

    # Pods.

    def _pod(self, document, field, template):
        spec = template["spec"]
        bad = functools.partial(self._bad_at, document, f"{field}.spec")
        labels = template.get("metadata", {}).get("labels", {})
        selector = document["spec"].get("selector", {}).get("matchLabels")
        if document["kind"] == "Deployment" and not covers(labels, selector):
            self.bad(document, "spec.selector", "does not match the labels of the pods")
        for constraint in spec.get("topologySpreadConstraints", []):
            if not covers(labels, constraint.get("labelSelector", {}).get("matchLabels")):
                bad("topologySpreadConstraints", "count other pods than these")
        self._identity(bad, spec)
        security = spec.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            bad("securityContext", "the pod may run as root")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            bad("securityContext.seccompProfile", "is not RuntimeDefault")
        for switch in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(switch):
                bad(switch, "the namespace's policy refuses it")
        self._volumes(bad, spec)
        for kind in ("initContainers", "containers"):
            for container in spec.get(kind, []):
                at = functools.partial(self._bad_at, document, f"{field}.spec.{kind}.{container['name']}")
                self._container(at, container, spec)
                if container.get("image", "").rpartition(":")[0].endswith(("/tessera", "/tessera-gpu")):
                    self._tessera(at, document, template, container)
        startup = next((c["startupProbe"] for c in spec["containers"] if "startupProbe" in c), None)
        if document["kind"] == "Deployment" and startup and \
                document["spec"].get("progressDeadlineSeconds", 600) <= budget(startup):
            self.bad(document, "spec.progressDeadlineSeconds",
                     f"a start may take {budget(startup)} s, and would count as stuck")

    def _bad_at(self, document, prefix, field, sentence):
        self.bad(document, f"{prefix}.{field}" if field else prefix, sentence)

    def _identity(self, bad, spec):
        account = spec.get("serviceAccountName", "default")
        if not self.find("ServiceAccount", account):
            bad("serviceAccountName", f"ServiceAccount {account} does not exist")
        granted = any(subject["name"] == account for d in self.documents
                      if d["kind"] == "RoleBinding" for subject in d["subjects"])
        if not granted and spec.get("automountServiceAccountToken") is not False:
            bad("automountServiceAccountToken", "a token that nothing needs is mounted")
        if spec.get("enableServiceLinks") is not False:
            bad("enableServiceLinks", "variables like TESSERA_PORT=tcp://… come from Services")

    def _volumes(self, bad, spec):
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounted = {mount["name"] for kind in ("initContainers", "containers")
                   for container in spec.get(kind, []) for mount in container.get("volumeMounts", [])}
        for name in sorted(set(volumes) - mounted):
            bad(f"volumes.{name}", "is not mounted")
        for name, volume in volumes.items():
            for kind in set(volume) - RESTRICTED_VOLUMES:
                bad(f"volumes.{name}", f"the namespace's policy refuses {kind}")
            config = volume.get("configMap", {}).get("name")
            if config and not self.find("ConfigMap", config):
                bad(f"volumes.{name}", f"ConfigMap {config} does not exist")
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in BROUGHT["PersistentVolumeClaim"]:
                bad(f"volumes.{name}", f"nobody makes the claim {claim}")
            secret = volume.get("secret", {}).get("secretName")
            if secret and secret not in BROUGHT["Secret"]:
                bad(f"volumes.{name}", f"nobody makes the Secret {secret}")
            if secret and volume["secret"].get("defaultMode", 0o644) & 0o007:
                bad(f"volumes.{name}", "everybody in the container can read the Secret")

    def _container(self, bad, container, spec):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False:
            bad("securityContext.allowPrivilegeEscalation", "must be false")
        if security.get("readOnlyRootFilesystem") is not True:
            bad("securityContext.readOnlyRootFilesystem", "the container may change its own files")
        if "ALL" not in security.get("capabilities", {}).get("drop", []) or \
                security.get("capabilities", {}).get("add"):
            bad("securityContext.capabilities", "not all are dropped")
        image, _, tag = container["image"].rpartition(":")
        if not image or tag == "latest":
            bad("image", f"{container['image']} names no version")
        names = [variable["name"] for variable in container.get("env", [])]
        for name in sorted({name for name in names if names.count(name) > 1}):
            bad(f"env.{name}", "stands twice")
        for source in container.get("envFrom", []):
            if source.get("secretRef", {}).get("name") not in BROUGHT["Secret"]:
                bad("envFrom", f"nobody makes {source}")
        self._resources(bad, container)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            bad("volumeMounts", f"{path} is mounted twice")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                bad("volumeMounts", f"volume {mount['name']} does not exist")
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        if len(set(ports.values())) < len(container.get("ports", [])):
            bad("ports", "a number or a name stands twice")
        for probe in PROBES:
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if port is not None and port not in ports and port not in ports.values():
                bad(f"{probe}.httpGet.port", f"the container has no port {port}")

    def _resources(self, bad, container):
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            for name, quantity in resources.get(kind, {}).items():
                if amount(quantity) is None:
                    bad(f"resources.{kind}.{name}", f"{quantity} is no quantity (16Gi, 500m)")
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if not {"cpu", "memory"} <= set(limits):
            bad("resources.limits", "CPU and memory have no limit")
        for name in sorted(set(requests) | set(limits)):
            if "/" in name and requests.get(name) != limits.get(name):
                bad(f"resources.{name}", "an extended resource must be equal in requests and limits")
        if any(name.startswith("nvidia.com/") for name in limits) and requests != limits:
            bad("resources", "pods with GPUs must be Guaranteed: requests equal to limits")

    # What the binary says about its own arguments.

    def _tessera(self, bad, document, template, container):
        process = Process(document, template, container, self.documents)
        for problem in process.problems:
            bad("", problem)
        self._memory_volumes(bad, process, container)
        for name in process.environment:
            if name.startswith("TESSERA_") and name[8:].lower().replace("_", "-") not in \
                    self._options(process.arguments[0]):
                bad(f"env.{name}", f"tessera {process.arguments[0]} has no such option")
        config = self._print_config(bad, process)
        if config is None:
            return
        self._files(bad, process, config)
        if process.arguments[0] == "serve":
            self._served(bad, template["spec"], container, config)
            if document["kind"] == "Deployment" and document["spec"].get("minReadySeconds", 0) < 5:
                self.bad(document, "spec.minReadySeconds",
                         "a rollout goes on before balancers have found the new pod")
            self._layout(bad, document, template["spec"], container, config)
        else:
            self._worker(bad, document, config)

    @functools.lru_cache
    def _options(self, command):
        done = subprocess.run([self.program, command, "--help"], capture_output=True, text=True)
        return {name.replace("[no-]", "") for name in
                re.findall(r"^  --(\S+)", done.stdout, re.MULTILINE)}

    def _print_config(self, bad, process):
        with tempfile.TemporaryDirectory() as folder:
            arguments = []
            for argument in process.arguments:
                if argument in process.files:
                    file = pathlib.Path(folder) / "config.yaml"
                    file.write_text(process.files[argument])
                    argument = str(file)
                elif argument.startswith("/etc/tessera/"):
                    bad("args", f"no ConfigMap puts a file at {argument}")
                    return None
                arguments.append(argument)
            done = subprocess.run([self.program, *arguments, "--print-config"], text=True,
                                  capture_output=True, timeout=30,
                                  env={**process.environment, "PATH": "/usr/bin:/bin"})
        if done.returncode != 0:
            bad("args", f"the binary refuses them: {done.stderr.strip().splitlines()[0]}")
            return None
        return yaml.safe_load(done.stdout)

    def _files(self, bad, process, config):
        for name, value in config.items():
            if isinstance(value, str) and value.startswith("/") and \
                    not any(value.startswith(f"{folder}/") for folder in process.folders):
                bad("args", f"{name} names {value}, and no volume is mounted there")
        model = process.arguments[1]
        if not any(model.startswith(f"{folder}/") for folder in process.folders):
            bad("args", f"the model {model} is on no volume")

    def _memory_volumes(self, bad, process, container):
        memory = amount(container.get("resources", {}).get("limits", {}).get("memory", 0)) or 0
        shared = process.folders.get("/dev/shm", {}).get("emptyDir", {})
        size = amount(shared.get("sizeLimit", "")) if shared else None
        if shared.get("medium") != "Memory" or not size:
            bad("volumeMounts", "/dev/shm is no memory of a given size")
        elif size > memory:
            bad("volumeMounts", f"/dev/shm may hold more than the memory limit ({memory:.0f} bytes)")
        if not process.folders.get("/tmp", {}).get("emptyDir", {}).get("sizeLimit"):
            bad("volumeMounts", "/tmp is no volume of a given size")

    def _served(self, bad, spec, container, config):
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        for name, option in (("grpc", "port"), ("http", "http-port"), ("metrics", "metrics-port")):
            if ports.get(name) != config[option]:
                bad(f"ports.{name}", f"is {ports.get(name)}, and the server listens on {config[option]}")
        if config["host"] not in ("0.0.0.0", "::"):
            bad("args", f"host is {config['host']}: neither probes nor clients of other pods reach it")
        if not (config["insecure"] or config.get("api-keys") or config.get("tls-cert")):
            bad("args", "the server does not start: it has neither keys nor TLS nor --insecure")
        for probe, path in zip(PROBES, ("/readyz", "/readyz", "/healthz")):
            got = container.get(probe, {}).get("httpGet", {})
            if got.get("path") != path:
                bad(probe, f"must ask {path}, not {got.get('path')}")
            if got.get("port") not in ("metrics", config["metrics-port"]):
                bad(probe, f"asks port {got.get('port')}: only the metrics port needs no key")
        if budget(container.get("startupProbe", {})) < 3600:
            bad("startupProbe", "470 GB of weights may take an hour")
        ready = container.get("readinessProbe", {})
        if config["drain-delay"] < budget(ready) + 5:
            bad("args", f"drain-delay {config['drain-delay']} is too short to be noticed")
        need = config["drain-delay"] + config["drain-timeout"] + FINISH_SECONDS
        grace = spec.get("terminationGracePeriodSeconds", 30)
        if grace < need:
            bad("terminationGracePeriodSeconds",
                f"{grace} s are less than drain-delay + drain-timeout + {FINISH_SECONDS} = {need} s")
        if container.get("lifecycle", {}).get("preStop"):
            bad("lifecycle.preStop", "--drain-delay waits already")

    def _layout(self, bad, document, spec, container, config):
        gpus = int(container["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
        if bool(gpus) != (config["backend"] == "cuda"):
            bad("args", f"backend {config['backend']} with {gpus} GPUs")
            return
        if not gpus:
            return
        nodes, ranks = config["nodes"], config["tensor-parallel-size"] * config["data-parallel-size"]
        if ranks != nodes * gpus:
            bad("args", f"{ranks} ranks on {nodes} x {gpus} GPUs")
        if document["kind"] == "LeaderWorkerSet" and \
                nodes != document["spec"]["leaderWorkerTemplate"]["size"]:
            bad("args", f"{nodes} nodes in a group of another size")
        product = spec.get("nodeSelector", {}).get("nvidia.com/gpu.product")
        if product not in GPU_OF_PRODUCT:
            bad("nodeSelector", f"{product} is no GPU that tessera plan knows")
            return
        self._plan(bad, config, ranks, GPU_OF_PRODUCT[product])

    def _plan(self, bad, config, ranks, gpu):
        model = ROOT / f"tests/data/reference/configs/{config['served-model-name']}.config.json"
        done = subprocess.run([self.program, "plan", model, "--gpus", str(ranks), "--gpu", gpu,
                               "--json"], capture_output=True, text=True)
        wanted = (config["tensor-parallel-size"], config["data-parallel-size"],
                  config["enable-expert-parallel"])
        layouts = yaml.safe_load(done.stdout)["layouts"] if done.returncode == 0 else []
        if not any((one["tensor_parallel"], one["data_parallel"], one["expert_parallel"]) == wanted
                   and one["fits"] for one in layouts):
            bad("args", f"tessera plan: {config['served-model-name']} does not fit on {ranks} {gpu} as "
                f"tensor-parallel-size {wanted[0]}, data-parallel-size {wanted[1]}")

    def _worker(self, bad, document, config):
        leader = document["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
        container = leader["spec"]["containers"][0]
        process = Process(document, leader, container, self.documents)
        head = self._print_config(bad, process)
        if head is None:
            return
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        address = process.environment["LWS_LEADER_ADDRESS"]
        port = head["cluster-address"].rpartition(":")[2]
        if config["join"] != f"{address}:{port}" or str(ports.get("cluster")) != port:
            bad("args", f"join is {config['join']}, the leader waits at {address}:{port}")
        if config["join-timeout"] != head["join-timeout"]:
            bad("args", "join-timeout is another one than the leader's")

    # Objects that point at pods and at each other.

    def _ports_of(self, pods):
        return {key for pod in pods for container in pod["spec"]["containers"]
                for port in container.get("ports", [])
                for key in (port.get("name"), port["containerPort"]) if key is not None}

    def _select(self, document, field, selector, ports):
        pods = self.selected(selector)
        if not pods:
            self.bad(document, field, f"{selector} selects no pod of this overlay")
            return
        for where, port in ports:
            if port not in self._ports_of(pods):
                self.bad(document, where, f"{port} is no port of the selected pods")

    def _service(self, document, spec):
        self._select(document, "spec.selector", spec.get("selector"),
                     [(f"spec.ports.{port.get('name')}", port.get("targetPort", port["port"]))
                      for port in spec["ports"]])

    def _poddisruptionbudget(self, document, spec):
        self._select(document, "spec.selector", spec["selector"].get("matchLabels"), [])

    def _podmonitor(self, document, spec):
        self._select(document, "spec.selector", spec["selector"].get("matchLabels"),
                     [("spec.podMetricsEndpoints", end.get("port")) for end in spec["podMetricsEndpoints"]])

    def _networkpolicy(self, document, spec):
        ports = [("spec.ingress.ports", port["port"]) for rule in spec.get("ingress", [])
                 for port in rule.get("ports", [])]
        self._select(document, "spec.podSelector", spec["podSelector"].get("matchLabels"), ports)
        for direction, who in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                for peer in rule.get(who, []):
                    pods = peer.get("podSelector", {}).get("matchLabels")
                    if pods and "namespaceSelector" not in peer and not self.selected(pods):
                        self.bad(document, f"spec.{direction}", f"{pods} selects no pod of this overlay")

    def _inferencepool(self, document, spec):
        self._select(document, "spec.selector", spec["selector"].get("matchLabels"),
                     [("spec.targetPorts", port["number"]) for port in spec["targetPorts"]])
        picker = spec["endpointPickerRef"]
        service = self.find("Service", picker["name"])
        if not service or picker["port"]["number"] not in [p["port"] for p in service["spec"]["ports"]]:
            self.bad(document, "spec.endpointPickerRef", f"no Service {picker['name']} with that port")

    def _scaledobject(self, document, spec):
        target = spec["scaleTargetRef"]
        if not self.find(target.get("kind", "Deployment"), target["name"]):
            self.bad(document, "spec.scaleTargetRef", f"{target['name']} does not exist")
        if spec.get("minReplicaCount", 0) > spec.get("maxReplicaCount", 100):
            self.bad(document, "spec.minReplicaCount", "is more than maxReplicaCount")
        for trigger in spec["triggers"]:
            self._metric_names(document, "spec.triggers", trigger["metadata"].get("query", ""))

    def _metric_names(self, document, field, text):
        names = re.findall(r"\btessera_\w+", text)
        for name in names or [text]:
            if name not in self.metrics:
                self.bad(document, field, f"the server exports no metric {name}")

    def _configmap(self, document, spec):
        for key, text in document["data"].items():
            content = yaml.safe_load(text)
            if isinstance(content, dict) and content.get("kind") == "EndpointPickerConfig":
                self._picker(document, f"data.{key}", content)

    def _picker(self, document, field, config):
        plugins = {plugin.get("name", plugin["type"]): plugin for plugin in config["plugins"]}
        for name in re.findall(r"'pluginRef': '([^']+)'", str(config)):
            if name not in plugins:
                self.bad(document, field, f"plugin {name} does not exist")
        engines = plugins["core-metrics-extractor"]["parameters"]["engineConfigs"]
        for engine in engines:
            for key in ("queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec"):
                self._metric_names(document, f"{field}.{key}", engine[key])
        for pod in self.selected({"app.kubernetes.io/name": "tessera"}):
            if pod["metadata"]["labels"].get("llm-d.ai/engine-type") not in [e["name"] for e in engines]:
                self.bad(document, field, "no engine of it is the llm-d.ai/engine-type of the pods")
        for _, _, template in self.pods:
            for argument in template["spec"]["containers"][0].get("args", []):
                port = re.match(r"--model-server-metrics-port=(\d+)$", argument)
                if port and int(port[1]) not in self._ports_of(
                        self.selected({"app.kubernetes.io/name": "tessera"})):
                    self.bad(document, field, f"the picker scrapes port {port[1]}, which no pod has")

    def _grpcroute(self, document, spec):
        self._route(document, spec)
        for rule in spec["rules"]:
            for match in rule.get("matches", []):
                self._grpc_service(document, match.get("method", {}).get("service"))

    def _httproute(self, document, spec):
        self._route(document, spec)
        for rule in spec["rules"]:
            if rule.get("timeouts", {}).get("request") != "0s":
                self.bad(document, "spec.rules.timeouts", "cut long answers off: request must be 0s")
            for match in rule.get("matches", []):
                path = match.get("path", {}).get("value")
                if path != "/v1":
                    self.bad(document, "spec.rules.matches", f"{path} is not where the API is: /v1")

    def _route(self, document, spec):
        for parent in spec["parentRefs"]:
            gateway = self.find("Gateway", parent["name"])
            names = [one["name"] for one in gateway["spec"]["listeners"]] if gateway else []
            if parent.get("sectionName") not in names:
                self.bad(document, "spec.parentRefs", f"no Gateway {parent['name']} with that listener")
            hosts = [one.get("hostname") for one in gateway["spec"]["listeners"]
                     if one["name"] == parent.get("sectionName")] if gateway else []
            for host in spec.get("hostnames", []):
                if gateway and host not in hosts:
                    self.bad(document, "spec.hostnames", f"no listener takes {host}")
        for rule in spec["rules"]:
            for backend in rule["backendRefs"]:
                found = self.find(backend.get("kind", "Service"), backend["name"])
                if not found or (found["kind"] == "Service" and backend.get("port") not in
                                 [port["port"] for port in found["spec"]["ports"]]):
                    self.bad(document, "spec.rules.backendRefs",
                             f"{backend.get('kind', 'Service')} {backend['name']} with that port does "
                             "not exist")

    def _grpc_service(self, document, service):
        text = "".join(file.read_text() for file in (ROOT / "proto").rglob("*.proto"))
        package, _, name = (service or "").rpartition(".")
        known = re.search(rf"^service {name} ", text, re.MULTILINE) and f"package {package};" in text
        if not known and service != "grpc.health.v1.Health":
            self.bad(document, "spec.rules.matches", f"there is no gRPC service {service}")

    def _gateway(self, document, spec):
        for listener in spec["listeners"]:
            for reference in listener.get("tls", {}).get("certificateRefs", []):
                if reference["name"] not in BROUGHT["Secret"]:
                    self.bad(document, "spec.listeners.tls", f"nobody makes Secret {reference['name']}")

    def _rolebinding(self, document, spec):
        if not self.find("Role", document["roleRef"]["name"]):
            self.bad(document, "roleRef", f"Role {document['roleRef']['name']} does not exist")
        for subject in document["subjects"]:
            if not self.find(subject["kind"], subject["name"]):
                self.bad(document, "subjects", f"{subject['name']} does not exist")


def budget(probe):
    """Seconds until a probe gives up."""
    return probe.get("initialDelaySeconds", 0) + \
        probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


def meaning_problems(documents, program, metrics):
    return Meaning(documents, os.fspath(program), metrics).run()
