"""What must hold of everything this folder ships: one function a rule.

A *bundle* is a set of objects applied together: the base, an overlay, an example. A *rule* yields a
sentence for everything wrong in a bundle. broken.py shows for each that it can fail.
"""

import copy
import hashlib
import pathlib
import re

import kubernetes_validate

try:
    import tomllib
except ImportError:  # before Python 3.11
    import tomli as tomllib

HERE = pathlib.Path(__file__).resolve().parent
# The oldest version that the manifests are meant for, and the newest ones that can be checked.
KUBERNETES = ("1.26", "1.36", "1.37")
RUN_DIR, STATE_DIR = "/run/laneway", "/var/lib/laneway"
# All that a workload may see of the run directory: never the control socket.
ATTACH_DIR = RUN_DIR + "/attach"
PAGE_SIZES = {"hugepages-2Mi": 2 << 20, "hugepages-1Gi": 1 << 30}
CONFIG_KEYS = {
    "version": None,
    "agent": {"run_dir", "state_dir"},
    "log": {"format", "level"},
    "hugepages": {"reserve"},
}
RULES = []


class Bundle:
    """Objects applied together, and what they may hold."""

    def __init__(self, name, docs, agent, capabilities=frozenset(), host_pid=False):
        self.name, self.docs, self.agent = name, docs, agent
        self.capabilities, self.host_pid = set(capabilities), host_pid

    def broken(self, mutate):
        twin = copy.copy(self)
        twin.docs = copy.deepcopy(self.docs)
        mutate(twin)
        return twin

    def of(self, kind):
        return [doc for doc in self.docs if doc["kind"] == kind]

    def pods(self):
        """(name, pod template) of everything that runs."""
        for doc in self.docs:
            if doc["kind"] == "Pod":
                yield doc["metadata"]["name"], doc
            elif doc["kind"] in ("DaemonSet", "Deployment", "StatefulSet", "Job"):
                yield doc["metadata"]["name"], doc["spec"]["template"]

    def containers(self):
        """(name, pod spec, container) of everything that runs."""
        for name, pod in self.pods():
            for field in ("initContainers", "containers"):
                for container in pod["spec"].get(field, []):
                    yield f"{name}/{container['name']}", pod["spec"], container


def rule(function):
    RULES.append(function)
    return function


def quantity(text):
    """Bytes of a Kubernetes quantity; whole binary units and plain numbers only."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti)?", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a whole quantity")
    return int(match[1]) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[match[2]]


def workspace_version():
    manifest = tomllib.loads((HERE.parent / "Cargo.toml").read_text(encoding="utf-8"))
    return manifest["workspace"]["package"]["version"]


@rule
def schema(bundle):
    for doc in bundle.docs:
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(doc, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(part) for part in error.path)
                yield f"{doc.get('kind')} for {version}: {where}: {error.message}"
            except (kubernetes_validate.SchemaNotFoundError, KeyError) as error:
                yield f"{doc.get('kind')} for {version}: no schema ({error})"


@rule
def selectors_match_labels(bundle):
    for doc in bundle.of("DaemonSet"):
        wanted = doc["spec"]["selector"]["matchLabels"]
        labels = doc["spec"]["template"]["metadata"]["labels"]
        if not wanted.items() <= labels.items():
            yield f"{doc['metadata']['name']}: selector {wanted} does not fit labels {labels}"


@rule
def capabilities(bundle):
    for name, _, container in bundle.containers():
        wanted = container.get("securityContext", {}).get("capabilities", {})
        if wanted.get("drop") != ["ALL"]:
            yield f"{name}: does not drop ALL"
        added = set(wanted.get("add", []))
        allowed = bundle.capabilities if bundle.agent else set()
        if added != allowed:
            yield f"{name}: adds {sorted(added)}, not {sorted(allowed)}"


@rule
def closed_security_context(bundle):
    for name, pod, container in bundle.containers():
        context = container.get("securityContext", {})
        for field, wanted in (
            ("privileged", False),
            ("allowPrivilegeEscalation", False),
            ("readOnlyRootFilesystem", True),
        ):
            if context.get(field) is not wanted:
                yield f"{name}: {field} is not {wanted}"
        profile = {**pod.get("securityContext", {}), **context}.get("seccompProfile", {})
        if profile.get("type") != "RuntimeDefault":
            yield f"{name}: seccomp profile is not RuntimeDefault"


@rule
def users(bundle):
    for name, pod, container in bundle.containers():
        context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        if bundle.agent and context.get("runAsUser") != 0:
            yield f"{name}: the agent's uid is not said to be 0"
        if not bundle.agent and (not context.get("runAsNonRoot") or not context.get("runAsUser")):
            yield f"{name}: does not run as an unprivileged uid"


@rule
def host_namespaces(bundle):
    for name, pod in bundle.pods():
        for field in ("hostNetwork", "hostIPC", "shareProcessNamespace"):
            if pod["spec"].get(field):
                yield f"{name}: {field}"
        if bool(pod["spec"].get("hostPID")) != (bundle.agent and bundle.host_pid):
            yield f"{name}: hostPID is {pod['spec'].get('hostPID')}"
    for name, _, container in bundle.containers():
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: hostPort"


@rule
def host_paths(bundle):
    allowed = {RUN_DIR, STATE_DIR} if bundle.agent else {ATTACH_DIR}
    for name, pod in bundle.pods():
        for volume in pod["spec"].get("volumes", []):
            path = volume.get("hostPath")
            if path is None:
                continue
            # A bind mount of a socket file keeps the old socket when the agent makes a new one.
            if path.get("type") not in ("Directory", "DirectoryOrCreate"):
                yield f"{name}: hostPath {path['path']} is of type {path.get('type')}"
            if path["path"] not in allowed:
                yield f"{name}: hostPath {path['path']} is not one of {sorted(allowed)}"
    for name, pod, container in bundle.containers():
        host = {volume["name"] for volume in pod.get("volumes", []) if "hostPath" in volume}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in host:
                continue
            if "subPath" in mount or "subPathExpr" in mount:
                yield f"{name}: part of a hostPath is mounted at {mount['mountPath']}"
            if not bundle.agent and mount.get("readOnly") is not True:
                yield f"{name}: a workload may write to {mount['mountPath']}"


@rule
def volumes_exist(bundle):
    for name, pod, container in bundle.containers():
        have = {volume["name"] for volume in pod.get("volumes", [])}
        used = {mount["name"] for mount in container.get("volumeMounts", [])}
        if used != have:
            yield f"{name}: mounts {sorted(used)}, volumes {sorted(have)}"


@rule
def references_exist(bundle):
    spaces = {doc["metadata"]["name"] for doc in bundle.of("Namespace")}
    maps = {doc["metadata"]["name"] for doc in bundle.of("ConfigMap")}
    accounts = {doc["metadata"]["name"] for doc in bundle.of("ServiceAccount")}
    for doc in bundle.docs:
        if doc["kind"] != "Namespace" and doc["metadata"].get("namespace") not in spaces:
            yield f"{doc['kind']} {doc['metadata']['name']}: its namespace is not in the bundle"
    for name, pod in bundle.pods():
        account = pod["spec"].get("serviceAccountName")
        if account is not None and account not in accounts:
            yield f"{name}: no service account {account}"
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"{name}: no config map {volume['configMap']['name']}"


@rule
def no_tokens(bundle):
    for name, pod in bundle.pods():
        if pod["spec"].get("automountServiceAccountToken") is not False:
            yield f"{name}: mounts a token"
    for doc in bundle.of("ServiceAccount"):
        if doc.get("automountServiceAccountToken") is not False:
            yield f"service account {doc['metadata']['name']}: mounts a token"


@rule
def hugepages(bundle):
    for name, _, container in bundle.containers():
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        names = {key for key in [*requests, *limits] if key.startswith("hugepages-")}
        if bundle.agent and not names:
            yield f"{name}: the agent asks for no hugepages"
        if not bundle.agent and names:
            yield f"{name}: a workload asks for hugepages; the agent has paid for them"
        for key in names:
            if key not in PAGE_SIZES:
                yield f"{name}: {key}: unknown page size"
                continue
            if requests.get(key) != limits.get(key):
                yield f"{name}: {key}: request {requests.get(key)}, limit {limits.get(key)}"
            try:
                size = quantity(limits.get(key, requests.get(key)))
            except ValueError as error:
                yield f"{name}: {key}: {error}"
                continue
            if size == 0 or size % PAGE_SIZES[key]:
                yield f"{name}: {key}: {size} bytes is not a multiple of the page size"
        if not {"cpu", "memory"} & {*requests}:
            yield f"{name}: hugepages need a cpu or memory request beside them"
        if "memory" not in limits:
            yield f"{name}: no memory limit"


@rule
def probes(bundle):
    for name, _, container in bundle.containers() if bundle.agent else ():
        for field in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(field)
            if probe is None:
                yield f"{name}: no {field}"
            elif probe.get("exec", {}).get("command") != ["/laneway", "health"]:
                # Any other kind would need a listener on the pod network.
                yield f"{name}: {field} does not run /laneway health"
            elif probe.get("timeoutSeconds", 1) < 2:
                yield f"{name}: {field}: a second is too short for a busy node"


@rule
def images(bundle):
    for name, _, container in bundle.containers():
        image = container["image"]
        tag = re.fullmatch(r"[^@]+:([^:/@]+)", image)
        if "@sha256:" in image:
            continue
        if not tag or tag[1] == "latest":
            yield f"{name}: image {image} has no fixed tag"
        elif tag[1] != workspace_version():
            yield f"{name}: image {image} is not version {workspace_version()}"


@rule
def one_agent_per_node(bundle):
    for doc in bundle.of("DaemonSet"):
        update = doc["spec"].get("updateStrategy", {})
        if update.get("type") == "RollingUpdate":
            if update.get("rollingUpdate", {}).get("maxSurge", 0) != 0:
                yield "an update would start a second agent on the node"
        elif update.get("type") != "OnDelete":
            yield "no update strategy"
        if not doc["spec"]["template"]["spec"].get("terminationGracePeriodSeconds"):
            yield "no termination grace period"


@rule
def stays_on_the_node(bundle):
    for name, pod in bundle.pods() if bundle.agent else ():
        if pod["spec"].get("priorityClassName") != "system-node-critical":
            yield f"{name}: not node-critical"
        if {"operator": "Exists", "effect": "NoSchedule"} not in pod["spec"].get("tolerations", []):
            yield f"{name}: does not tolerate NoSchedule"
        if not any(
            pod["spec"].get("priorityClassName") in expression.get("values", [])
            for quota in bundle.of("ResourceQuota")
            for expression in quota["spec"].get("scopeSelector", {}).get("matchExpressions", [])
        ):
            yield f"{name}: no quota speaks of its priority class"


@rule
def configuration(bundle):
    for doc in bundle.of("ConfigMap"):
        text = doc["data"].get("laneway.toml", "")
        try:
            config = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            yield f"laneway.toml: {error}"
            continue
        if config.get("version") != 1:
            yield "laneway.toml: version is not 1"
        for key, value in config.items():
            if key not in CONFIG_KEYS:
                yield f"laneway.toml: unknown key {key}"
            elif isinstance(value, dict) and not set(value) <= (CONFIG_KEYS[key] or set()):
                yield f"laneway.toml: unknown key in [{key}]"
        for field, wanted in (("run_dir", RUN_DIR), ("state_dir", STATE_DIR)):
            if config.get("agent", {}).get(field) != wanted:
                yield f"laneway.toml: {field} is not the mounted {wanted}"
        if config.get("hugepages", {}).get("reserve"):
            yield "laneway.toml: the pod cannot reserve hugepages: /sys is read-only in it"
        digest = hashlib.sha256(text.encode()).hexdigest()
        for name, pod in bundle.pods():
            if pod["metadata"].get("annotations", {}).get("laneway/config-sha256") != digest:
                yield f"{name}: annotation laneway/config-sha256 should be {digest}"
    if bundle.agent and not bundle.of("ConfigMap"):
        yield "no configuration"
