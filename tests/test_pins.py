"""Are all ways of making an environment, and all ways of running a check, the same?"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PLATFORMS = {
    "linux-64": {"sys_platform": "linux", "platform_machine": "x86_64"},
    "linux-aarch64": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "osx-arm64": {"sys_platform": "darwin", "platform_machine": "arm64"},
    "win-64": {"sys_platform": "win32", "platform_machine": "AMD64"},
}


@pytest.fixture(scope="module")
def pins(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script(".ci/pins.py")


@pytest.fixture(scope="module")
def lock(project: Path) -> str:
    return (project / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pyproject(project: Path) -> dict:
    return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def manifest(project: Path) -> dict:
    return tomllib.loads((project / "pixi.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def makefile(project: Path) -> str:
    return (project / "Makefile").read_text(encoding="utf-8")


def list_tasks(manifest: dict) -> dict[str, dict]:
    """Every task of the manifest, whatever feature it belongs to."""
    return {
        name: task for part in (manifest, *manifest["feature"].values()) for name, task in part.get("tasks", {}).items()
    }


def test_pixi_pins_the_direct_dependencies_as_the_lock_does(
    pins: ModuleType, project: Path, pyproject: dict, lock: str
) -> None:
    text = (project / "pixi.toml").read_text(encoding="utf-8")
    written = text.split(pins.BEGIN)[1].split(pins.END)[0]
    assert written == pins.format_pins(pyproject, lock), "run `python .ci/pins.py`"


def test_pins_follow_dependencies_extras_and_the_dev_group(pins: ModuleType) -> None:
    pyproject = {
        "project": {
            "name": "toy",
            "dependencies": ["numpy>=2"],
            "optional-dependencies": {"study": ["Ruamel.Yaml>=0.18"], "all": ["toy[study]"]},
        },
        "dependency-groups": {"dev": ["ruff>=0.9"]},
    }
    lock = (
        "numpy==2.4.6 ; sys_platform == 'linux' \\\n    --hash=sha256:00\nruamel-yaml==0.19.1\nruff==1.0\nsix==1.17.0"
    )
    text = pins.format_pins(pyproject, lock)
    assert tomllib.loads(text) == {
        "pypi-dependencies": {
            "facespec": {"path": ".", "editable": True, "extras": ["all", "study"]},
            "numpy": "==2.4.6",
            "ruamel-yaml": "==0.19.1",
        },
        "feature": {"dev": {"pypi-dependencies": {"ruff": "==1.0"}}},
    }


def test_the_lock_is_hashed_and_covers_every_range(pins: ModuleType, pyproject: dict, lock: str) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    versions = pins.read_versions(lock)
    assert len(versions) == len(entries), "a package is locked in two versions: pixi.toml can pin only one"
    extras = pyproject["project"].get("optional-dependencies", {})
    groups = [pyproject["project"]["dependencies"], *extras.values(), *pyproject["dependency-groups"].values()]
    for requirement in (Requirement(line) for group in groups for line in group):
        name = canonicalize_name(requirement.name)
        assert name == "facespec" or requirement.specifier.contains(versions[name]), requirement


def test_cuda_packages_are_locked_for_linux_alone(lock: str) -> None:
    markers = re.findall(r"^nvidia-[^ ]+ ; ([^\\\n]+)", lock, flags=re.MULTILINE)
    assert markers
    for marker in markers:
        requirement = Requirement(f"cuda ; {marker}")
        assert requirement.marker
        installed = {platform for platform, values in PLATFORMS.items() if requirement.marker.evaluate(values)}
        assert installed == {"linux-64", "linux-aarch64"}


def test_this_environment_is_the_pinned_one(pins: ModuleType, lock: str) -> None:
    versions = pins.read_versions(lock)
    for name in ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "matplotlib", "dvc"):
        assert versions[name] == metadata.version(name).split("+")[0]


def test_the_manifest_is_valid(manifest: dict, project: Path) -> None:
    import jsonschema

    schema = Path(os.environ.get("FACESPEC_PIXI_SCHEMA", "manifest-schema.json"))
    if not schema.is_file():
        pytest.skip("pixi's manifest schema is not here: set FACESPEC_PIXI_SCHEMA to its JSON file")
    jsonschema.validate(manifest, json.loads(schema.read_text()))


def test_uv_and_pixi_have_the_same_platforms_and_newest_releases(manifest: dict, pyproject: dict) -> None:
    uv = pyproject["tool"]["uv"]
    assert uv["exclude-newer"].startswith(manifest["workspace"]["exclude-newer"])
    assert manifest["workspace"]["platforms"] == list(PLATFORMS)
    for environment, values in zip(uv["environments"], PLATFORMS.values(), strict=True):
        platform = " and ".join(f"{name} == '{value}'" for name, value in values.items())
        assert environment == f"{platform} and python_full_version < '3.12'", "the pinned environment is Python 3.11's"


def test_pixi_tasks_are_described_and_do_what_make_does(manifest: dict, makefile: str) -> None:
    tasks = list_tasks(manifest)
    assert {"repro", "quick", "test", "test-fast", "figures", "lint"} <= set(tasks)
    for name, task in tasks.items():
        assert task["description"], f"describe the task {name} in pixi.toml"
        command = task.get("cmd", "").replace("runs/quick/Analysis", "$(STUDY)/Analysis").replace("'", '"')
        if name != "verify":
            assert command in makefile, f"pixi.toml's {name} runs what the Makefile does not: {command}"
        for dependency in task.get("depends-on", []):
            assert (dependency["task"] if isinstance(dependency, dict) else dependency) in tasks


def test_the_commit_hooks_call_tools_of_the_pinned_environment(project: Path, pyproject: dict, makefile: str) -> None:
    config = yaml.safe_load((project / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    development = {Requirement(line).name for line in pyproject["dependency-groups"]["dev"]}
    assert [repository["repo"] for repository in config["repos"]] == ["local"], "a hook must download nothing"
    hooks = {hook["id"]: hook for repository in config["repos"] for hook in repository["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "mypy"}
    for hook in hooks.values():
        folder, tool = hook["entry"].split()[0].rsplit("/", 1)
        assert hook["language"] == "system" and folder == ".venv/bin", "call the pinned environment's tools"
        assert tool in development and f"\t{tool}" in makefile, "check what `make lint` checks"
        assert shutil.which(tool, path=str(Path(sys.executable).parent)), f"{tool} is not in this environment"


def test_the_workflow_runs_what_a_contributor_runs(project: Path, makefile: str) -> None:
    workflow = yaml.load((project / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert workflow["on"] == {"push": {"branches": ["main"]}, "pull_request": ""}, "one run per change"
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] == "true"
    jobs = workflow["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["lint"] == ["make lint"] and commands["test"] == ["bash .ci/run"]
    for job in jobs.values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/none@v0")), step
