"""``params.yaml`` is read as DVC reads it; unknown keys and wrong values are refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError
from facespec.study.params import merge_params, read_params


@pytest.fixture(scope="session")
def text(project: Path) -> str:
    return (project / "params.yaml").read_text()


def test_the_parameters_of_the_project_are_valid_and_frozen(project: Path) -> None:
    params = read_params(project / "params.yaml")
    assert params.profile == "default" and len(params.seeds) == 3
    with pytest.raises(ValidationError):
        params.train.epochs = 2  # type: ignore[misc]


def test_every_number_carries_its_mark(text: str) -> None:
    """[P] published, [D] derived, [L] lineage or [O] our own: on its line, or on the profile it belongs to."""
    lines = text.split("\nprofiles:")[0].splitlines()
    values = [line for line in lines if ":" in line.split("#")[0] and line.split("#")[0].split(":", 1)[1].strip()]
    assert [line for line in values if not any(f"[{mark}" in line for mark in "PDLO")] == ["profile: default"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": {"epoch": 3}},
            "train: unknown key 'epoch': did you mean 'epochs'? Allowed: 'epochs', 'batch_size', ",
        ),
        ({"trian": {}}, "unknown key 'trian': did you mean 'train'? Allowed: 'profile', 'seeds', 'data'"),
        ({"train": {"epochs": 0}}, "train.epochs: got 0. Input should be greater than or equal to 1."),
        ({"train": {"epochs": "8"}}, "train.epochs: got '8'. Input should be a valid integer."),
        (
            {"finetune": {"learning_rate": "fast"}},
            "finetune.learning_rate: got 'fast'. Input should be a valid number.",
        ),
        ({"checks": 7}, "checks: got 7. Input should be a valid dictionary or instance of Checks."),
        ({"seeds": [3, 3]}, "seeds: [3, 3] repeats a seed; every replicate needs its own."),
        (
            {"regions": {"face": {"top": 0.97}}},
            "regions.face: top 0.97 must lie above bottom 0.938, and left 0.24 before",
        ),
        (
            {"lesions": {"fractions": [0.1, 0.3, 0.2]}},
            "lesions: fractions [0.1, 0.3, 0.2] must ascend, each of them once.",
        ),
        ({"lesions": {"fractions": [0.1, 0.1]}}, "lesions: fractions [0.1, 0.1] must ascend, each of them once."),
        ({"lesions": {"fractions": [0.0, 0.1]}}, "lesions.fractions.0: got 0.0. Input should be greater than 0."),
        ({"lesions": {"fractions": [0.1, 1.0]}}, "lesions.fractions.1: got 1.0. Input should be less than 1."),
        ({"lesions": {"damages": [0.5, 0.5]}}, "lesions: damages [0.5, 0.5] must ascend, each of them once."),
        ({"lesions": {"damages": [1.0]}}, "lesions.damages.0: got 1.0. Input should be less than 1."),
        ({"lesions": {"damages": []}}, "lesions.damages: got []. List should have at least 1 item"),
        ({"lesions": {"steps": [0.6, 0.4]}}, "lesions: steps [0.6, 0.4] must ascend, each of them once."),
        ({"lesions": {"fractions": []}}, "lesions.fractions: got []. List should have at least 1 item"),
        ({"lesions": {"random": 3}}, "lesions.random: got 3. Input should be a multiple of 2."),
        ({"lesions": {"random": 0}}, "lesions.random: got 0. Input should be greater than or equal to 2."),
        ({"lesions": {"mode": "screen"}}, "lesions.mode: got 'screen'. Input should be 'exact' or 'screening'."),
        ({"lesions": {"group_p": 0.0}}, "lesions.group_p: got 0.0. Input should be greater than 0."),
        ({"lesions": {"greedy_p": 1.0}}, "lesions.greedy_p: got 1.0. Input should be less than 1."),
        ({"lesions": {"images": 0}}, "lesions.images: got 0. Input should be greater than or equal to 1."),
        ({"lesions": {"shuffled": 0}}, "lesions.shuffled: got 0. Input should be greater than or equal to 1."),
        ({"lesions": {"draws": 99}}, "lesions.draws: got 99. Input should be greater than or equal to 100."),
        (
            {"data": {"probe": {"pattern": "(?P<identety>x)"}}},
            "data.probe.pattern: unknown group 'identety': did you mean 'identity'? Allowed: 'identity', 'expression'",
        ),
        ({"data": {"probe": {"pattern": "("}}}, "data.probe.pattern: got '(', no regular expression: "),
        (
            {"data": {"probe": {"pattern": "x"}}},
            "data.probe.pattern: got 'x', which names nothing. Expected groups",
        ),
        ({"data": {"probe": {"name": " "}}}, "data.probe.name: got ' '. Expected a name of 1 to 40 printable letters"),
        (
            {"data": {"probe": {"name": "embedded faces"}}},
            "data.probe.name: got 'embedded faces', the name of the",
        ),
        (
            {"data": {"probe": {"words": {"1": "hapy"}}}},
            "data.probe.words: '1' cannot mean 'hapy': did you mean 'happy'? Allowed: 'angry', ",
        ),
        (
            {"data": {"identity": {"crop": {"top": 0.5, "bottom": 0.5, "left": 0.0, "right": 1.0}}}},
            "data.identity.crop: top 0.5 must lie above bottom 0.5",
        ),
        (
            {"data": {"identity": {"test_share": 1.0}}},
            "data.identity.test_share: got 1.0. Input should be less",
        ),
        ({"data": {"probe": {"test_share": 0.5}}}, "data.probe: unknown key 'test_share': "),
        ({"profiles": [1]}, "profiles: got [1]. Expected names, each with the parameters it changes."),
        ({"profiles": {"mine": 7}}, "profiles.mine: got 7. Expected the parameters it changes, or {}."),
        ({"profiles": {"mine": None}}, "profiles.mine: got None. Expected the parameters it changes, or {}."),
        (
            {"profiles": {1: {"train": 2}}},
            "profiles.1: train: got 2. Input should be a valid dictionary or instance of",
        ),
        (
            {"profiles": {"mine": {"network": {"chanels": [8]}}}},
            "profiles.mine: network: unknown key 'chanels': did you",
        ),
    ],
)
def test_wrong_parameters_are_refused(tmp_path: Path, text: str, changes: dict[str, Any], message: str) -> None:
    values = merge_params(yaml.safe_load(text) | {"profiles": {}}, changes)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(StudyError, match=rf"params\.yaml: {re.escape(message)}"):
        read_params(tmp_path / "params.yaml")


def test_lesions_at_the_limits(tmp_path: Path, text: str) -> None:
    limits = {
        "group_p": 1.0,
        "greedy_p": 0.0,
        "images": 1,
        "fractions": [0.5],
        "damages": [0.99],
        "steps": [],
        "random": 2,
        "shuffled": 1,
        "draws": 100,
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge_params(yaml.safe_load(text), {"lesions": limits})))
    assert limits.items() <= read_params(tmp_path / "params.yaml").lesions.model_dump().items()


def replace_text(tmp_path: Path, text: str, old: str, new: str) -> Path:
    """Write the project's ``params.yaml`` with one text replaced, as by hand."""
    assert text.count(old) == 1
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    return tmp_path / "params.yaml"


DECAY = "weight_decay: 0.01            # [O]\n  step_epochs: 30               # [L] sgd"


@pytest.mark.parametrize(
    ("number", "value"), [("1e-2", 0.01), ("1E-300", 1e-300), ("0", 0.0), (".5", 0.5), ("1_0e-2", 0.1)]
)
def test_numbers_may_be_written_in_any_way(tmp_path: Path, text: str, number: str, value: float) -> None:
    assert read_params(replace_text(tmp_path, text, DECAY, DECAY.replace("0.01", number))).train.weight_decay == value


@pytest.mark.parametrize("number", [".nan", ".inf", "1e999", "-1e-5"])
def test_numbers_out_of_range_are_refused(tmp_path: Path, text: str, number: str) -> None:
    path = replace_text(tmp_path, text, DECAY, DECAY.replace("0.01", number))
    with pytest.raises(StudyError, match=r"train\.weight_decay: got .*Input should be (less|greater) than or equal"):
        read_params(path)


def test_numbers_are_those_that_dvc_reads(tmp_path: Path, text: str) -> None:
    """A stage runs again for what DVC reads, and with what facespec reads."""
    from dvc.utils.serialize import load_yaml

    path = replace_text(tmp_path, text, "  epochs: 8                     #", "  epochs: 010                   #")
    assert read_params(path).train.epochs == load_yaml(path)["train"]["epochs"] == 10
    assert read_mapping(path) == load_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file. Run inside a study directory; `facespec init DIR` makes one."),
        ("train: [1, 2", "not valid YAML: "),
        ("- 1", "expected a mapping (name: value), got a list."),
        ("seeds: [1]", "profile: missing; see params.yaml of the project for its meaning and default."),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content:
        (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(StudyError, match=re.escape(f"{tmp_path}/params.yaml: {message}")):
        read_params(tmp_path / "params.yaml")


def test_a_link_to_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").symlink_to("gone.yaml")
    with pytest.raises(StudyError, match=r"params\.yaml: a link to gone\.yaml, which does not exist\."):
        read_params(tmp_path / "params.yaml")


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings, mappings)
def test_an_overlay_replaces_values_and_may_be_repeated(base: dict, overlay: dict) -> None:
    merged = merge_params(base, overlay)
    assert merge_params(merged, overlay) == merged
    assert merge_params(base, {}) == base
    for key, value in overlay.items():
        assert merged[key] == value or (isinstance(value, dict) and isinstance(base.get(key), dict))
