"""Compares the names of a stub, and those of its classes, with the module."""

import ast
import sys

import laneway


def named(body):
    """The public names that a stub's body declares."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


def main() -> None:
    with open(sys.argv[1]) as stub:
        tree = ast.parse(stub.read())
    declared = {name for name in named(tree.body) if not name.startswith("_")}
    assert declared == public(laneway), declared ^ public(laneway)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.endswith("Error"):
            names, there = set(named(node.body)), vars(getattr(laneway, node.name))
            assert names <= set(there), names - set(there)
            assert public(getattr(laneway, node.name)) <= names, node.name
    errors = [name for name in declared if name.endswith("Error")]
    assert all(issubclass(getattr(laneway, name), laneway.LanewayError) for name in errors)


if __name__ == "__main__":
    main()
