"""The set-up: one list of dependencies, everything else follows it, and nothing names this machine."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
TESTED_WITH = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
PINS = {
    canonicalize_name(pin.name): pin
    for pin in (Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
}


def pinned(name: str) -> Version:
    (only,) = PINS[canonicalize_name(name)].specifier
    assert only.operator == "=="
    return Version(only.version)


def tracked() -> list[Path]:
    """All files of the project: those git knows and those it would not ignore."""
    run = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name.decode() for name in run.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("requirement", [*REQUIRED, *TESTED_WITH], ids=lambda requirement: requirement.name)
def test_each_requirement_is_pinned_and_met(requirement):
    assert requirement.specifier.contains(pinned(requirement.name))
    if requirement.marker is None or requirement.marker.evaluate():
        assert requirement.specifier.contains(metadata.version(requirement.name))


def test_constraints_hold_versions_and_nothing_of_this_machine():
    assert pinned("torch") == Version("2.13.0")
    for pin in PINS.values():
        assert pin.url is None and pin.marker is None and pinned(pin.name).local is None
    assert "vtc-lab" not in PINS


def test_all_that_the_requirements_pull_in_is_pinned():
    """Walks what is installed; what other platforms need beyond it stays free."""
    waiting, seen = [(requirement.name, requirement.extras) for requirement in [*REQUIRED, *TESTED_WITH]], set()
    while waiting:
        name, extras = waiting.pop()
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        assert canonicalize_name(name) in PINS or re.match("nvidia|cuda|triton|setuptools", name), name
        for need in map(Requirement, needs):
            wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})
            if wanted and (key := (canonicalize_name(need.name), frozenset(need.extras))) not in seen:
                seen.add(key)
                waiting.append(key)
    assert len(seen) > 50


def test_each_requirement_says_what_it_is_here_for():
    text = (ROOT / "pyproject.toml").read_text()
    lines = [line.strip() for line in text.splitlines()]
    for requirement in [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]:
        places = [n for n, line in enumerate(lines) if line.startswith(f'"{requirement}",')]
        assert places
        for at in places:
            comment = lines[at].partition("  # ")[2] or (lines[at - 1].startswith("# ") and lines[at - 1])
            assert comment and len(comment) > 10, requirement


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", False),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),  # its wheels end with Python 3.8
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
    ],
)
def test_decord_is_asked_for_only_where_it_has_wheels(system, machine, wanted):
    environment = default_environment() | {"sys_platform": system, "platform_machine": machine}
    markers = {requirement.name: requirement.marker for requirement in REQUIRED}
    assert markers.pop("decord").evaluate(environment) is wanted
    assert set(markers.values()) == {None}  # PyAV among them


def test_conda_gets_python_and_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    assert nested == {"pip": ["-c constraints.txt", "-e .[test]"]}
    assert set(environment) == {"name", "channels", "dependencies"}


def test_versions_and_licence_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert (ROOT / "LICENSE").read_text().startswith(f"{PROJECT['license']} License")
    paper = citation["preferred-citation"]
    assert paper["title"] == "Learning Free Token Reduction for Multi-Modal LLM"
    assert "2501.17391" in paper["url"] and paper["authors"]


def test_the_package_brings_its_data():
    kept = {path for path in tracked() if path.is_relative_to(ROOT / "vtc_lab") and path.suffix != ".py"}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    brought = {ROOT / room.replace(".", "/"): patterns for room, patterns in tools["package-data"].items()}
    assert kept == {path for room, patterns in brought.items() for pattern in patterns for path in room.glob(pattern)}
    folders = {path.parent for path in tracked() if path.is_relative_to(ROOT / "vtc_lab") and path.suffix == ".py"}
    assert all((folder / "__init__.py").exists() for folder in folders)


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=clean | environment)


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^  make (\w+)", make("help").stdout, re.M))
    assert {"lab", "check", "test", "figures", "bench", "format", "clean"} <= targets
    for target in targets:
        assert make("--dry-run", target).returncode == 0
    named = set(re.findall(r"(?:`|^\s*|\$ )make ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert {"lab", "test"} <= named <= targets


def test_lab_allows_root_only_to_root_and_passes_arguments_on(tmp_path):
    command = [line for line in make("-n", "lab", "LAB_ARGS=--port 9999").stdout.splitlines() if "jupyter lab" in line]
    assert len(command) == 1
    assert ("--allow-root" in command[0]) == (os.geteuid() == 0)
    assert command[0].endswith(" --port 9999")
    somebody = tmp_path / "id"
    somebody.write_text("#!/bin/sh\necho 1000\n")
    somebody.chmod(0o755)
    assert "--allow-root" not in make("-n", "lab", PATH=f"{tmp_path}:{os.environ['PATH']}").stdout


def test_a_second_run_installs_nothing_and_a_changed_list_does(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for made in ("bin/pip", ".lab", ".test"):
        (tmp_path / ".venv" / made).touch()

    def installs(target: str) -> bool:
        return "pip install" in make("-n", "-C", str(tmp_path), target).stdout

    assert not installs("lab") and not installs("test")
    for name in ("pyproject.toml", "constraints.txt"):
        later = (tmp_path / ".venv" / ".lab").stat().st_mtime + 10
        os.utime(tmp_path / name, (later, later))
        assert installs("lab") and installs("test")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv" / ".test").unlink()
    assert not installs("lab") and installs("test")


@pytest.mark.parametrize(("exists", "said"), [(True, "is Python 3.10.9"), (False, "is not there")])
def test_a_wrong_python_gets_one_line(exists, said, tmp_path):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    old = tmp_path / "old"
    if exists:  # this Python, saying that it is an older one
        pretend = "import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])"
        old.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.9 || exec "{sys.executable}" -c "{pretend}" "$2"\n'
        )
        old.chmod(0o755)
    run = make("-C", str(tmp_path), f"PYTHON={old}", "lab")
    ours, _ = run.stderr.strip().splitlines()  # the second is make's own
    assert run.returncode != 0 and not (tmp_path / ".venv").exists()
    assert ours.startswith("vtc_lab needs Python 3.11 or newer") and said in ours


def test_ci_makes_the_tests_and_can_run():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert {"make test </dev/null", "make test-lmms </dev/null"} <= set(lines)
    assert any(line.startswith("export VTC_NEEDS_BROWSER=1") for line in lines)


WITHOUT_AND_INSISTING = """import os, sys, pytest
asked = ["-q", "tests/test_browser.py", "-k", "bad_input", "-p", "no:cacheprovider"]
print("first:", int(pytest.main(asked)))
del sys.modules["test_browser"]
os.environ["VTC_NEEDS_BROWSER"] = "1"
print("second:", int(pytest.main(asked)))"""


@pytest.mark.slow
def test_where_no_browser_is_to_be_had_its_tests_are_left_out_loudly_and_ci_fails(tmp_path):
    """On a machine whose PATH has neither chromium nor a way to get it."""
    bare = {**os.environ, "PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "CI": ""}
    bare.pop("VTC_NEEDS_BROWSER", None)
    command = [sys.executable, "-c", WITHOUT_AND_INSISTING]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=bare, timeout=300)
    left_out, _, insisting = run.stdout.partition("first: 0")
    assert "1 skipped" in left_out
    assert "!!! no browser: the tests that drive JupyterLab in chromium did not run" in left_out
    assert "1 error" in insisting and "second: 1" in insisting


def test_no_file_names_this_machine_or_a_package_index():
    here = [str(ROOT), str(Path.home())]
    words = ["index-" + "url", "find-" + "links", "pypi." + "org/simple", "files.python" + "hosted"]
    paths = "|".join(re.escape(path.rstrip("/")) + "/" for path in here if len(path) > 1)
    pattern = re.compile(rf"(?<![\w.])(?:{paths})|{'|'.join(map(re.escape, words))}".encode())
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    found = {str(path): match[0] for path in files if (match := pattern.search(path.read_bytes()))}
    assert not found
