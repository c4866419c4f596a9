"""Compares the names of a stub, and those of its classes, with the module. An installed module must
have brought that stub along."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import laneway


def named(body):
    """The public names that a stub's body declares."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id


def public(thing):
    # Installed, the module is in a package of its name.
    members = vars(thing).items()
    return {
        name
        for name, member in members
        if not name.startswith("_") and not isinstance(member, ModuleType)
    }


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
    if hasattr(laneway, "__path__"):
        package = Path(laneway.__file__).parent
        assert (package / "py.typed").exists()
        assert (package / "__init__.pyi").read_text() == Path(sys.argv[1]).read_text()


if __name__ == "__main__":
    main()
