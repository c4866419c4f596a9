#!/usr/bin/env python3
"""Checks what this folder ships: manifests, images and scripts. `validate` runs it.

The rules are in rules.py. At the end every rule has to refuse at least one broken copy, from
broken.py: a rule that cannot fail proves nothing.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import broken
import render
import rules

# What an agent bundle may hold beyond the base. An overlay that is not listed is refused.
OVERLAYS = {"base": (set(), False), "enforce": ({"SYS_NICE"}, True)}


def final_stage(name):
    """The last stage of a Dockerfile, without comments and the line that fetches the binary."""
    lines = (rules.HERE / name).read_text(encoding="utf-8").splitlines()
    start = len(lines) - lines[::-1].index("FROM scratch")
    return [
        line
        for line in lines[start:]
        if line and not line.startswith("#") and not line.startswith("COPY")
    ]


def command_fails(command, **kwargs):
    """Nothing if the command succeeds, else what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **kwargs
    )
    return [] if done.returncode == 0 else [(done.stdout + done.stderr).strip() or "failed"]


class Report:
    """Counts checks and prints those that failed; a line a section for those that passed."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, name, problems):
        problems = list(problems)
        if not problems:
            self.passed += 1
            return
        self.failed += 1
        for problem in problems:
            print(f"FAILED  {name}: {problem}")

    def skip(self, name, why):
        self.skipped += 1
        print(f"skipped {name}: {why}")

    def section(self, name, before):
        print(f"checked {name}: {self.passed - before} passed")


def load_bundles(report):
    """Every bundle of this folder by name."""
    folders = [rules.HERE / "base", *sorted((rules.HERE / "overlays").iterdir())]
    bundles = {}
    for folder in folders:
        problems = []
        if folder.name not in OVERLAYS:
            problems.append("what this overlay may hold is not said in check.py")
        else:
            try:
                bundles[folder.name] = rules.Bundle(
                    folder.name, render.render(folder), True, *OVERLAYS[folder.name]
                )
            except render.RenderError as error:
                problems.append(str(error))
        report.check(f"{folder.name}: renders", problems)
    for file in sorted((rules.HERE / "examples").glob("*.yaml")):
        try:
            bundles[file.stem] = rules.Bundle(file.stem, render.load(file), False)
            report.check(f"{file.stem}: loads", [])
        except render.RenderError as error:
            report.check(f"{file.stem}: loads", [str(error)])
    return bundles


def check_bundles(report, bundles):
    for bundle in bundles.values():
        before = report.passed
        for function in rules.RULES:
            report.check(f"{bundle.name}: {function.__name__}", function(bundle))
        report.section(f"{bundle.name} ({len(bundle.docs)} objects)", before)


def check_the_checks(report, bundles):
    before = report.passed
    for name, function, sentence, mutate in broken.BROKEN:
        problems = []
        if name not in bundles:
            problems.append("the bundle did not load")
        elif not list(function(bundles[name].broken(mutate))):
            problems.append(f"{function.__name__} did not refuse it")
        report.check(f"broken copy of {name}, {sentence}", problems)
    proven = {function for _, function, _, _ in broken.BROKEN}
    report.check(
        "every rule has a broken copy",
        [function.__name__ for function in rules.RULES if function not in proven],
    )
    for sentence, files in broken.broken_renders():
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                pathlib.Path(folder, name).write_text(text, encoding="utf-8")
            try:
                render.render(pathlib.Path(folder))
                problems = ["the renderer did not refuse it"]
            except render.RenderError:
                problems = []
            report.check(f"broken kustomization, {sentence}", problems)
    report.section("broken copies are refused", before)


def check_images_and_scripts(report):
    before = report.passed
    hadolint = pathlib.Path(sys.executable).parent / "hadolint"
    for name in ("Dockerfile", "Dockerfile.prebuilt"):
        report.check(f"hadolint {name}", command_fails([hadolint, rules.HERE / name]))
        wanted = f"ARG VERSION={rules.workspace_version()}"
        report.check(
            f"{name}: version", [] if wanted in final_stage(name) else [f"no line {wanted}"]
        )
    same = final_stage("Dockerfile") == final_stage("Dockerfile.prebuilt")
    report.check("both images end alike", [] if same else ["the last stages differ"])
    shellcheck = shutil.which("shellcheck")
    for name in ("validate", "containers"):
        if shellcheck is None:
            report.skip(f"shellcheck {name}", "shellcheck is not installed")
        else:
            report.check(f"shellcheck {name}", command_fails([shellcheck, rules.HERE / name]))
    report.section("images and scripts", before)


def check_config_with_the_agent(report, bundles):
    binary = os.environ.get("LANEWAY_BIN")
    if not binary or "base" not in bundles:
        report.skip("the agent reads the shipped configuration", "LANEWAY_BIN is not set")
        return
    text = bundles["base"].of("ConfigMap")[0]["data"]["laneway.toml"]
    with tempfile.TemporaryDirectory() as folder:
        good, bad = pathlib.Path(folder, "good.toml"), pathlib.Path(folder, "bad.toml")
        good.write_text(text, encoding="utf-8")
        bad.write_text(text + "\n[agnet]\nrun_dir = \"/run/laneway\"\n", encoding="utf-8")
        command = [binary, "agent", "--print-config", "--config"]
        report.check("the agent reads the shipped configuration", command_fails([*command, good]))
        refused = command_fails([*command, bad])
        report.check("the agent refuses an unknown table", [] if refused else ["it took it"])


def main():
    report = Report()
    bundles = load_bundles(report)
    check_bundles(report, bundles)
    check_the_checks(report, bundles)
    check_images_and_scripts(report)
    check_config_with_the_agent(report, bundles)
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    print(f"{report.passed} passed, {report.failed} failed{skipped}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
