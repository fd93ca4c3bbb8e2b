"""Make a study directory: the pipeline and the notebooks as they are now, with parameters of one's own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from facespec.stages import fingerprints
from facespec.stages.grid_pipeline import write_grid_pipeline
from facespec.stages.study_directory import check_path, is_study, mark_study, write_dvc_config
from facespec.stages.template import FILES, NOTEBOOKS, find_template, is_clone
from facespec.stages.trunk_check import check_trunk
from facespec.study.documents import parse_mapping, parse_yaml, read_text
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import USER_FUNCTION, Params, read_params, validate_params
from facespec.study.paths import Paths
from facespec.study.storage import atomic_write, write_bytes

GITIGNORE = b"/.facespec/\n/.*.lock\n*.partial\n__pycache__/\n.ipynb_checkpoints/\n"
STUDIES = "runs"  # the project's own directory for studies
PRODUCTS = ("data", "checkpoints", "Results")  # what a run in the project makes, and makes anew
UNWRITABLE = re.compile("[\x85\ud800-\udfff]")  # a line end to YAML alone, and bytes that are not UTF-8


def run(
    directory: Path,
    *,
    profile: str = "default",
    settings: Iterable[str] = (),
    networks: Path | None = None,
    grid: bool = False,
    template: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Params:
    """Make or refresh the study directory `directory`; finished results in it are kept.

    It receives the notebooks, ``dvc.yaml``, the fingerprints of the code that runs now, and a ``params.yaml`` in which
    `profile` and then each of `settings` (``"train.epochs=5"``) replace the defaults. `networks`, a Python file with
    networks of the user's own (docs/networks.md), is the parameter ``network.file``; a line about each is given to
    `report`. With `grid`, the pipeline is that of the networks of ``sharing.grid`` (docs/sharing.md). Inside a git
    repository that does not ignore it, DVC uses that repository. Raises `StudyError` for an unknown profile or
    parameter, or a directory that is or holds something else: that is left as it is.
    """
    template = template or find_template()
    check_path(directory)
    settings = [*settings, *([f"network.file={networks}"] if networks is not None else [])]
    _refuse_strangers(directory, template)
    paths = Paths(directory)
    params = _make_parameters(template / "params.yaml", profile, settings)
    networks_found = check_trunk(_read_back(params))
    directory.mkdir(parents=True, exist_ok=True)
    mark_study(directory, profile=profile)  # first: an init that is interrupted can be repeated
    with atomic_write(paths.params) as partial:
        with partial.open("w", encoding="utf-8") as file:
            _make_yaml().dump(params, file)
        checked = read_params(partial)  # a refused parameter leaves the directory's own as they were
    for name in (NOTEBOOKS, "facespec"):  # studies of version 0.1 held a copy of the package, which would run instead
        shutil.rmtree(directory / name, ignore_errors=True)
    for notebook in sorted((template / NOTEBOOKS).glob("*.ipynb")):
        write_bytes(directory / NOTEBOOKS / notebook.name, notebook.read_bytes())
    for name in FILES:
        if name != paths.params.name:
            write_bytes(directory / name, (template / name).read_bytes())
    if grid:
        write_grid_pipeline(paths, checked)
    write_bytes(directory / ".gitignore", GITIGNORE)
    write_dvc_config(directory)
    fingerprints.run(paths)
    for line in networks_found:
        report(line)
    return checked


def _refuse_strangers(directory: Path, template: Path) -> None:
    """Raise `StudyError` if `directory` is or holds anything but a study: it would be overwritten."""
    location = Path(os.path.realpath(directory))
    if study := next((above for above in location.parents if is_study(above)), None):
        raise StudyError(
            f"{directory}: lies inside the study {study}, which makes its own files anew. Name another place."
        )
    if is_clone(template) and (location == template or _is_taken(location, template)):
        raise StudyError(
            f"{directory}: this is the facespec project itself. Name a new directory, for example runs/mine."
        )
    if directory.is_symlink() and not directory.exists():
        raise StudyError(f"{directory}: a link to nothing. Name a new directory.")
    if directory.exists() and not directory.is_dir():
        raise StudyError(f"{directory}: a file. Name a new directory.")
    if directory.is_dir() and any(directory.iterdir()) and not is_study(directory):
        raise StudyError(
            f"{directory}: not empty, and not a study directory that `facespec init` made (it lacks "
            f"{Paths().marker}), so nothing in it is touched. Name a new directory."
        )


def _is_taken(location: Path, project: Path) -> bool:
    """Whether `location` lies in a directory of `project` that is not for studies."""
    if not location.is_relative_to(project):
        return False
    top = project / location.relative_to(project).parts[0]
    if top.name in PRODUCTS:
        return True
    return top.name != STUDIES and not is_study(top) and (top.is_file() or (top.is_dir() and any(top.iterdir())))


def _make_yaml() -> YAML:
    yaml = YAML()  # keeps the comments: the marks and sources stay beside the numbers
    yaml.width = 120
    return yaml


def _make_parameters(path: Path, profile: str, settings: Iterable[str]) -> Any:
    """The parameters in `path` with `profile` and `settings` in their places, comments kept."""
    read_params(path)  # also refuses what the loader below, which keeps comments, would let pass or fail on
    params = _make_yaml().load(read_text(path))
    profiles = params.pop("profiles", None) or {}
    if profile not in profiles:
        raise StudyError(f"unknown profile {profile!r}: {suggest_spelling(profile, profiles)}")
    _overlay(params, profiles[profile])
    params["profile"] = profile
    names: set[str] = set()
    for setting in settings:
        name, value = _parse_setting(setting)
        if name in names:
            raise StudyError(f"setting {setting!r}: {name} is set twice. Keep one of the settings.")
        names.add(name)
        _overlay(params, value)
    return params


def _read_back(params: Any) -> Params:
    """What a study with `params` will read; raises `StudyError` for values that are not allowed."""
    text = StringIO()
    _make_yaml().dump(params, text)
    return validate_params(parse_mapping(text.getvalue(), name="params.yaml"), name="params.yaml")


def _overlay(base: Any, values: Any) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = value


def _parse_setting(setting: str) -> tuple[str, dict[str, Any]]:
    """The name of a parameter, and its value below the names of its blocks: ``{"train": {"epochs": 5}}``."""
    name, equals, text = setting.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise StudyError(f"setting {setting!r}: expected block.name=value, for example train.epochs=5.")
    if odd := UNWRITABLE.search(text):
        raise StudyError(f"setting {setting!r}: params.yaml cannot hold the character {odd[0]!r}. Rename what has it.")
    if keys == ["profile"]:
        raise StudyError(f"setting {setting!r}: a profile is chosen with --profile {text.strip() or 'NAME'}.")
    # a path and a regular expression mean themselves, whatever they would mean in YAML
    readers = {"source": _resolve_source, "pattern": _read_pattern}
    if keys in (["network", "weights"], ["network", "file"]) and text.strip() not in ("", "null", "~"):
        readers[keys[-1]] = _resolve_source
    if keys == ["network", "trunk"] and USER_FUNCTION.fullmatch(text.strip()):
        readers["trunk"] = _resolve_source  # the file's path ends with a function's name
    value: Any = readers.get(keys[-1], parse_yaml)(text, name=f"setting {setting!r}")
    for key in reversed(keys):
        value = {key: value}
    return ".".join(keys), value


def _read_pattern(text: str, *, name: str) -> str | None:
    """`text` as it is; None for ``null``."""
    return None if text.strip() == "null" else text.strip()


def _resolve_source(text: str, *, name: str) -> str:
    """`text` as it is, not as YAML: ``embedded``, or a path, which holds in the study's directory too."""
    if not (text := text.strip()):
        raise StudyError(f"{name}: expected embedded, or the path to real faces.")
    # Path's own methods raise for names of no user and for links in a circle
    return text if text == "embedded" else os.path.realpath(os.path.expanduser(text))  # noqa: PTH111
