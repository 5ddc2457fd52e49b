"""Rendered overlays of deploy/kubernetes: objects, pods, and what a container's process would get."""
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pypi_tools

TOOLS = pypi_tools.use("manifests")

import jsonschema  # noqa: E402
import referencing  # noqa: E402
import yaml  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
VERSIONS = ("1.29", "1.34", "1.37")
CRD_SCHEMAS = {schema["properties"]["kind"]["const"]: schema
               for file in (KUBERNETES / "schemas").glob("*.json")
               for schema in [json.loads(file.read_text())]}
CORE_SCHEMAS = TOOLS / "kubernetes_validate/kubernetes-json-schema"


@functools.cache
def core_definitions(version):
    file = CORE_SCHEMAS / f"v{version}.0-local-strict/_definitions.json"
    return referencing.Resource.from_contents(json.loads(file.read_text())) @ referencing.Registry()


@functools.cache
def validator_of(kind, api, version):
    """Validator of a kind; the version counts for core kinds only."""
    if kind in CRD_SCHEMAS:
        return jsonschema.Draft202012Validator(CRD_SCHEMAS[kind])
    group, _, api_version = api.rpartition("/")
    name = "-".join(filter(None, [kind.lower(), group.partition(".")[0], api_version]))
    file = CORE_SCHEMAS / f"v{version}.0-local-strict/{name}.json"
    if not file.exists():
        return None
    return jsonschema.Draft202012Validator(json.loads(file.read_text()),
                                           registry=core_definitions(version))


def render(folder):
    """`kubectl kustomize FOLDER`, as the text that `kubectl apply -k` would send."""
    done = subprocess.run([TOOLS / "bin/kubectl", "kustomize", folder], capture_output=True,
                          text=True, timeout=60, env={**os.environ, "KUBECONFIG": "/dev/null"})
    if done.returncode != 0 or done.stderr:
        raise AssertionError(f"kubectl kustomize {folder}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def composed(overlay, *components):
    """A folder with an overlay of a user's: one of ours with further components."""
    with tempfile.TemporaryDirectory() as outer:
        shutil.copytree(KUBERNETES, f"{outer}/kubernetes")
        folder = f"{outer}/mine"
        os.mkdir(folder)
        (pathlib.Path(folder) / "kustomization.yaml").write_text(json.dumps({
            "resources": [f"../kubernetes/{overlay}"],
            "components": [f"../kubernetes/{component}" for component in components]}))
        yield folder


def objects(text):
    return [document for document in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if document]


def title(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def templates(document):
    """(field, pod template) of every kind that makes pods."""
    spec = document.get("spec", {})
    if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield "spec.template", spec["template"]
    if document["kind"] == "LeaderWorkerSet":
        for role in ("leaderTemplate", "workerTemplate"):
            if role in spec["leaderWorkerTemplate"]:
                yield f"spec.leaderWorkerTemplate.{role}", spec["leaderWorkerTemplate"][role]


def schema_problems(documents, versions=VERSIONS):
    """What the API server's schemas refuse: core kinds by version, custom resources by ours."""
    problems = []
    for document in documents:
        each = [document]
        if document["kind"] in CRD_SCHEMAS:
            each += [{"apiVersion": "v1", "kind": "PodTemplate", "template": template,
                      "metadata": {"name": document["metadata"]["name"]}}
                     for _, template in templates(document)]
        for version in versions:
            for part in each:
                validator = validator_of(part["kind"], part["apiVersion"], version)
                if validator is None:
                    problems.append(f"{title(document)}: apiVersion: Kubernetes {version} has no "
                                    f"{part['kind']} of {part['apiVersion']}")
                    continue
                problems += [f"{title(document)}: {dotted(error)}: {error.message}"
                             f" (Kubernetes {version})" for error in validator.iter_errors(part)]
    return list(dict.fromkeys(problems))


def dotted(error):
    return ".".join(str(step) for step in error.absolute_path) or "(object)"


class Process:
    """Arguments, environment and files of a container, as the kubelet would give them."""

    def __init__(self, document, template, container, documents):
        self.problems = []
        self._maps = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ConfigMap"}
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        self.environment = {}
        if document["kind"] == "LeaderWorkerSet":  # what its controller adds
            name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
            self.environment["LWS_GROUP_SIZE"] = str(document["spec"]["leaderWorkerTemplate"]["size"])
            self.environment["LWS_LEADER_ADDRESS"] = f"{name}-0.{name}.{namespace}"
        for variable in container.get("env", []):
            self.environment[variable["name"]] = self._value(variable, container)
        self.arguments = [self._expand(argument) for argument in container.get("args", [])]
        # {path in the container: content} of mounted ConfigMaps, and folders of Secrets and claims.
        self.files = {}
        self.folders = {}
        for mount in container.get("volumeMounts", []):
            self._mount(mount, volumes.get(mount["name"], {}))

    def _value(self, variable, container):
        if "value" in variable:
            return self._expand(variable["value"])
        resource = variable.get("valueFrom", {}).get("resourceFieldRef")
        if resource:
            kind, _, name = resource["resource"].partition(".")
            quantity = container.get("resources", {}).get(kind, {}).get(name)
            if quantity is None:
                self.problems.append(f"env {variable['name']}: there is no {kind} of {name}")
                return ""
            return str(quantity)
        self.problems.append(f"env {variable['name']}: this check does not know its source")
        return ""

    def _expand(self, text):
        def value(match):
            if match[1] not in self.environment:
                self.problems.append(f"args: $({match[1]}) stands for nothing")
            return self.environment.get(match[1], match[0])
        return re.sub(r"\$\((\w+)\)", value, str(text))

    def _mount(self, mount, volume):
        path = mount["mountPath"]
        self.folders[path] = volume
        if "configMap" in volume:
            data = self._maps.get(volume["configMap"].get("name"), {}).get("data", {})
            for key, content in data.items():
                self.files[f"{path}/{key}"] = content
