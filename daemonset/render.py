#!/usr/bin/env python3
"""Renders the kustomizations of this folder, and refuses what it does not know.

It stands in for kustomize where checks run without one. It understands exactly what is used here:
`resources` (files and folders) and `patches` that are JSON patches in a file with a kind and a
name as target, with the operations add, replace and test. Anything else is an error rather than a
guess, so that the manifests which are checked are those which kustomize would make.

    render.py FOLDER        prints the rendered objects as YAML
"""

import copy
import pathlib
import sys

import yaml


class RenderError(Exception):
    """The input is wrong, or is right but beyond what this program understands."""


class StrictLoader(yaml.SafeLoader):
    """YAML without double keys: plain PyYAML silently keeps the last one."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise RenderError(f"line {key_node.start_mark.line + 1}: key {key!r} twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path):
    """All objects of one YAML file."""
    try:
        docs = list(yaml.load_all(path.read_text(encoding="utf-8"), StrictLoader))
    except (OSError, yaml.YAMLError, RenderError) as error:
        raise RenderError(f"{path}: {error}") from error
    return [doc for doc in docs if doc is not None]


def only(what, mapping, allowed):
    unknown = sorted(set(mapping) - set(allowed))
    if unknown:
        raise RenderError(f"{what}: not understood: {', '.join(unknown)}")


def apply(doc, operation):
    """Applies one operation of RFC 6902 to `doc` in place."""
    only("patch operation", operation, ("op", "path", "value"))
    if not operation["path"].startswith("/"):
        raise RenderError(f"patch path {operation['path']!r} is not absolute")
    *parents, last = [
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"][1:].split("/")
    ]
    parent = doc
    for part in parents:
        parent = step(parent, part, operation["path"])
    if operation["op"] == "test":
        if step(parent, last, operation["path"]) != operation["value"]:
            raise RenderError(f"patch test failed at {operation['path']}")
    elif operation["op"] == "replace":
        step(parent, last, operation["path"])
        parent[int(last) if isinstance(parent, list) else last] = operation["value"]
    elif operation["op"] == "add" and isinstance(parent, dict):
        parent[last] = operation["value"]
    elif operation["op"] == "add" and isinstance(parent, list) and last == "-":
        parent.append(operation["value"])
    else:
        raise RenderError(f"patch {operation['op']} at {operation['path']}: not understood")


def step(parent, part, path):
    try:
        return parent[int(part) if isinstance(parent, list) else part]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise RenderError(f"patch path {path}: nothing at {part!r}") from error


def render(folder):
    """The objects that `kustomize build` makes of `folder`."""
    file = folder / "kustomization.yaml"
    [kustomization] = load(file)
    only(file, kustomization, ("apiVersion", "kind", "resources", "patches"))
    if kustomization.get("kind") != "Kustomization":
        raise RenderError(f"{file}: kind is not Kustomization")
    docs = []
    for entry in kustomization.get("resources", []):
        source = folder / entry
        docs += render(source) if source.is_dir() else load(source)
    identities = [(doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"])
                  for doc in docs]
    if len(set(identities)) != len(identities):
        raise RenderError(f"{file}: the same object twice")
    for patch in kustomization.get("patches", []):
        only(f"{file}: patch", patch, ("path", "target"))
        only(f"{file}: patch target", patch["target"], ("kind", "name"))
        wanted = (patch["target"]["kind"], patch["target"]["name"])
        targets = [doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) == wanted]
        if len(targets) != 1:
            raise RenderError(f"{file}: patch target {wanted} fits {len(targets)} objects")
        [operations] = load(folder / patch["path"])
        if not isinstance(operations, list):
            raise RenderError(f"{folder / patch['path']}: not a JSON patch")
        for operation in operations:
            apply(targets[0], copy.deepcopy(operation))
    return docs


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: render.py FOLDER")
    try:
        docs = render(pathlib.Path(sys.argv[1]))
    except RenderError as error:
        sys.exit(f"render: {error}")
    print(yaml.safe_dump_all(docs, sort_keys=False), end="")


if __name__ == "__main__":
    main()
