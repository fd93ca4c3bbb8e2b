"""One set of pins, however the environment is made."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def pins(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script(".ci/pins.py")


@pytest.fixture(scope="module")
def manifest(project: Path) -> dict:
    return tomllib.loads((project / "pixi.toml").read_text())


def test_pixi_carries_the_pins_of_the_lock_on_every_platform(pins: ModuleType, manifest: dict, project: Path) -> None:
    locked = pins.locked((project / "requirements.lock").read_text())
    assert set(manifest["workspace"]["platforms"]) == set(locked)
    for platform, packages in locked.items():
        listed = manifest["pypi-dependencies"] | manifest.get("target", {}).get(platform, {}).get(
            "pypi-dependencies", {}
        )
        listed = {name: pin for name, pin in listed.items() if name != "facespec"}
        assert listed == {name: f"=={version}" for name, version in packages.items()}


def test_cuda_packages_are_for_linux_alone(pins: ModuleType, project: Path) -> None:
    locked = pins.locked((project / "requirements.lock").read_text())
    assert any(name.startswith("nvidia-") for name in locked["linux-64"])
    assert not any(name.startswith("nvidia-") for name in locked["osx-arm64"] | locked["win-64"])


def test_the_lock_is_hashed_and_covers_every_range(project: Path) -> None:
    lock = (project / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    pinned = {entry.split("==")[0]: entry.split("==")[1].split()[0] for entry in entries}
    metadata_ = tomllib.loads((project / "pyproject.toml").read_text())
    for line in metadata_["project"]["dependencies"] + metadata_["dependency-groups"]["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


def test_this_environment_is_the_pinned_one(pins: ModuleType, project: Path) -> None:
    lock = (project / "requirements.lock").read_text()
    for name in ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "matplotlib", "dvc"):
        assert f"\n{name}=={metadata.version(name).split('+')[0]} " in lock


def test_the_manifest_is_valid(manifest: dict, project: Path) -> None:
    import jsonschema

    schema = project.parent / "shared" / "pixi" / "manifest-schema.json"
    if not schema.is_file():
        pytest.skip("the pixi manifest schema is not beside the project (../shared/pixi/manifest-schema.json)")
    jsonschema.validate(manifest, json.loads(schema.read_text()))


def test_both_environments_exclude_the_same_newer_releases(manifest: dict, project: Path) -> None:
    uv = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["uv"]["exclude-newer"]
    assert uv.startswith(manifest["workspace"]["exclude-newer"])
