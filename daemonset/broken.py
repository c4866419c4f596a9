"""Broken copies of what this folder ships. Each has to be refused by the rule that it names."""

import hashlib

import rules


def pod_of(bundle):
    return next(bundle.pods())[1]["spec"]


def container_of(bundle):
    return pod_of(bundle)["containers"][0]


def misspell_host_pid(bundle):
    pod_of(bundle)["hostPid"] = True


def rename_kind(bundle):
    bundle.of("ServiceAccount")[0]["kind"] = "ServiceAcount"


def change_template_label(bundle):
    labels = bundle.of("DaemonSet")[0]["spec"]["template"]["metadata"]["labels"]
    labels["app.kubernetes.io/name"] = "lanewy"


def drop_less(bundle):
    container_of(bundle)["securityContext"]["capabilities"]["drop"] = ["NET_RAW"]


def add_sys_admin(bundle):
    container_of(bundle)["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]


def privileged(bundle):
    container_of(bundle)["securityContext"]["privileged"] = True


def writable_root(bundle):
    del container_of(bundle)["securityContext"]["readOnlyRootFilesystem"]


def no_seccomp(bundle):
    del pod_of(bundle)["securityContext"]["seccompProfile"]


def become_root(bundle):
    pod_of(bundle)["securityContext"]["runAsUser"] = 0


def no_uid(bundle):
    del pod_of(bundle)["securityContext"]["runAsUser"]


def host_pid(bundle):
    pod_of(bundle)["hostPID"] = True


def host_network(bundle):
    pod_of(bundle)["hostNetwork"] = True


def first_host_path(bundle):
    return next(v["hostPath"] for v in pod_of(bundle)["volumes"] if "hostPath" in v)


def socket_file(bundle):
    first_host_path(bundle).update(path=f"{rules.RUN_DIR}/attach.sock", type="Socket")


def host_root(bundle):
    first_host_path(bundle)["path"] = "/"


def writable_mount(bundle):
    del container_of(bundle)["volumeMounts"][0]["readOnly"]


def mount_nothing_known(bundle):
    container_of(bundle)["volumeMounts"][0]["name"] = "typo"


def other_config_map(bundle):
    next(v for v in pod_of(bundle)["volumes"] if "configMap" in v)["configMap"]["name"] = "typo"


def other_namespace(bundle):
    bundle.docs[-1]["metadata"]["namespace"] = "default"


def mount_token(bundle):
    pod_of(bundle)["automountServiceAccountToken"] = True


def uneven_hugepages(bundle):
    for side in ("requests", "limits"):
        container_of(bundle)["resources"][side]["hugepages-2Mi"] = "129Mi"


def hugepage_request_apart(bundle):
    container_of(bundle)["resources"]["requests"]["hugepages-2Mi"] = "64Mi"


def workload_hugepages(bundle):
    for side in ("requests", "limits"):
        container_of(bundle)["resources"][side]["hugepages-2Mi"] = "2Mi"


def no_liveness(bundle):
    del container_of(bundle)["livenessProbe"]


def grpc_probe(bundle):
    container_of(bundle)["readinessProbe"] = {"grpc": {"port": 7000}}


def latest_image(bundle):
    container_of(bundle)["image"] = "registry.example.com/laneway:latest"


def untagged_image(bundle):
    container_of(bundle)["image"] = "registry.example.com:5000/laneway"


def old_image(bundle):
    container_of(bundle)["image"] = "registry.example.com/laneway:0.0.1"


def surge(bundle):
    bundle.of("DaemonSet")[0]["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = 1


def no_tolerations(bundle):
    del pod_of(bundle)["tolerations"]


def edit_config(old, new):
    def mutate(bundle):
        [config] = bundle.of("ConfigMap")
        assert old in config["data"]["laneway.toml"]
        config["data"]["laneway.toml"] = config["data"]["laneway.toml"].replace(old, new)
        digest = hashlib.sha256(config["data"]["laneway.toml"].encode()).hexdigest()
        next(bundle.pods())[1]["metadata"]["annotations"]["laneway/config-sha256"] = digest

    return mutate


def stale_checksum(bundle):
    bundle.of("ConfigMap")[0]["data"]["laneway.toml"] += "\n"


# (bundle, rule that has to refuse, sentence, how to break it)
BROKEN = [
    ("base", rules.schema, "a misspelt field", misspell_host_pid),
    ("base", rules.schema, "a misspelt kind", rename_kind),
    ("base", rules.selectors_match_labels, "a label beside the selector", change_template_label),
    ("base", rules.capabilities, "fewer dropped capabilities", drop_less),
    ("base", rules.capabilities, "an added capability", add_sys_admin),
    ("enforce", rules.capabilities, "a capability beyond the overlay's", add_sys_admin),
    ("base", rules.closed_security_context, "a privileged container", privileged),
    ("base", rules.closed_security_context, "a writable root file system", writable_root),
    ("producer-consumer", rules.closed_security_context, "no seccomp profile", no_seccomp),
    ("producer-consumer", rules.users, "a workload that is root", become_root),
    ("base", rules.users, "an agent without a uid", no_uid),
    ("base", rules.host_namespaces, "the host's processes", host_pid),
    ("producer-consumer", rules.host_namespaces, "the host's network", host_network),
    ("base", rules.host_paths, "a mounted socket file", socket_file),
    ("producer-consumer", rules.host_paths, "the host's root", host_root),
    ("producer-consumer", rules.host_paths, "a writable socket directory", writable_mount),
    ("base", rules.volumes_exist, "a mount without a volume", mount_nothing_known),
    ("base", rules.references_exist, "a config map that is not there", other_config_map),
    ("base", rules.references_exist, "an object in another namespace", other_namespace),
    ("base", rules.no_tokens, "a mounted token", mount_token),
    ("base", rules.hugepages, "hugepages that are no multiple", uneven_hugepages),
    ("base", rules.hugepages, "a hugepage request that is not the limit", hugepage_request_apart),
    ("producer-consumer", rules.hugepages, "hugepages for a workload", workload_hugepages),
    ("base", rules.probes, "no liveness probe", no_liveness),
    ("base", rules.probes, "a probe on the pod network", grpc_probe),
    ("base", rules.images, "the tag latest", latest_image),
    ("base", rules.images, "no tag", untagged_image),
    ("base", rules.images, "the tag of another version", old_image),
    ("base", rules.one_agent_per_node, "an update with a surge", surge),
    ("base", rules.stays_on_the_node, "no tolerations", no_tolerations),
    ("base", rules.configuration, "an unknown key", edit_config("level =", "levle =")),
    ("base", rules.configuration, "an unmounted directory", edit_config(rules.RUN_DIR, "/run/x")),
    ("base", rules.configuration, "a stale checksum", stale_checksum),
]


def broken_renders():
    """Kustomizations that the renderer has to refuse: (sentence, file name -> text)."""
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n"
    patches = "resources: [a.yaml]\npatches: [{path: p.yaml, target: {kind: %s, name: a}}]\n"
    patched = head + patches % "ServiceAccount"
    return [
        ("a field that it does not know", {"kustomization.yaml": head + "namePrefix: x-\n"}),
        ("a file that is not there", {"kustomization.yaml": head + "resources: [gone.yaml]\n"}),
        ("a double key", {
            "kustomization.yaml": head + "resources: [a.yaml]\n",
            "a.yaml": account + "kind: ServiceAccount\n",
        }),
        ("a patch without a target", {
            "kustomization.yaml": head + patches % "DaemonSet",
            "a.yaml": account,
            "p.yaml": "[]",
        }),
        ("a patch whose test fails", {
            "kustomization.yaml": patched,
            "a.yaml": account,
            "p.yaml": "[{op: test, path: /metadata/name, value: b}]",
        }),
        ("a patch operation that it does not know", {
            "kustomization.yaml": patched,
            "a.yaml": account,
            "p.yaml": "[{op: move, path: /metadata/name, value: b}]",
        }),
    ]
