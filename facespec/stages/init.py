"""Make a study directory: the code, the notebooks and the pipeline as they are now, with parameters of one's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import facespec
from facespec.study.errors import StudyError, did_you_mean
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.storage import replacing, write_bytes

PROJECT = Path(facespec.__file__).resolve().parents[1]
COPIED = ("facespec", "Analysis_Reproduction")
DVC_CONFIG = b"[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n"


def run(directory: Path, *, profile: str = "default", settings: Iterable[str] = (), project: Path = PROJECT) -> Params:
    """Make or refresh the study directory `directory`; finished results in it are kept.

    It receives a copy of the package (DVC re-runs what depends on changed code), the notebooks, ``dvc.yaml`` and a
    ``params.yaml`` in which `profile` and then each of `settings` (``"train.epochs=5"``) replace the defaults.
    Raises `StudyError` for an unknown profile or parameter, or a directory that holds something else.
    """
    if not (project / "dvc.yaml").is_file():
        raise StudyError(f"{project}: no dvc.yaml beside the package. Run from a clone of the project.")
    paths = Paths(directory)
    if (
        directory.exists()
        and any(directory.iterdir())
        and not (paths.params.is_file() and not (directory / ".git").exists())
    ):
        raise StudyError(f"{directory}: not empty and not a study directory. Name a new directory.")
    params = _parameters(project / "params.yaml", profile, settings)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(paths.params) as partial:
        with partial.open("w", encoding="utf-8") as file:
            _yaml().dump(params, file)
        checked = read_params(partial)  # a refused parameter leaves the directory's own as they were
    for name in COPIED:
        shutil.rmtree(directory / name, ignore_errors=True)
        shutil.copytree(
            project / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for name in ("dvc.yaml", ".dvcignore"):
        write_bytes(directory / name, (project / name).read_bytes())
    write_bytes(directory / ".dvc" / "config", DVC_CONFIG)
    return checked


def _yaml() -> YAML:
    yaml = YAML()  # keeps the comments: the marks and sources stay beside the numbers
    yaml.width = 120
    return yaml


def _parameters(path: Path, profile: str, settings: Iterable[str]) -> Any:
    params = _yaml().load(path.read_text(encoding="utf-8"))
    profiles = params.pop("profiles")
    if profile not in profiles:
        raise StudyError(f"unknown profile {profile!r}: {did_you_mean(profile, profiles)}")
    params["profile"] = profile
    _overlay(params, profiles[profile])
    for setting in settings:
        _overlay(params, _nested(setting))
    return params


def _overlay(base: Any, values: Any) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = value


def _nested(setting: str) -> dict[str, Any]:
    name, equals, text = setting.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise StudyError(f"setting {setting!r}: expected block.name=value, for example train.epochs=5.")
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise StudyError(f"setting {setting!r}: the value is not valid YAML: {error}") from None
    if keys[-1] == "source" and value != "embedded":
        value = str(Path(text).expanduser().resolve())  # the study lies in another directory than the caller
    for key in reversed(keys):
        value = {key: value}
    return value
