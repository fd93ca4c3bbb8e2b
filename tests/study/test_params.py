from __future__ import annotations

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


@pytest.fixture
def values(project: Path) -> dict[str, Any]:
    return yaml.safe_load((project / "params.yaml").read_text()) | {"profiles": {}}


def refused(tmp_path: Path, values: dict[str, Any]) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(StudyError) as caught:
        read_params(path)
    return str(caught.value).replace(str(path), "params.yaml")


def test_the_projects_own_parameters_are_valid_and_frozen(project: Path) -> None:
    params = read_params(project / "params.yaml")
    assert params.profile == "default" and len(params.seeds) == 3
    with pytest.raises(ValidationError):
        params.train.epochs = 2  # type: ignore[misc]


def test_every_number_carries_its_mark(project: Path) -> None:
    """[P] published, [D] derived, [L] lineage or [O] our own: on its line, or on the profile it belongs to."""
    lines = (project / "params.yaml").read_text().split("\nprofiles:")[0].splitlines()
    set_here = [line for line in lines if ":" in line.split("#")[0] and line.split("#")[0].split(":", 1)[1].strip()]
    unmarked = [line for line in set_here if not any(f"[{mark}" in line for mark in "PDLO")]
    assert unmarked == ["profile: default"]


def test_mistyped_key(tmp_path: Path, values: dict[str, Any]) -> None:
    values["train"]["epoch"] = 3
    assert refused(tmp_path, values) == (
        "params.yaml: train: unknown key 'epoch': did you mean 'epochs'? Allowed: 'epochs', 'batch_size', 'optimizer', "
        "'learning_rate', 'weight_decay', 'step_epochs', 'label_smoothing', 'preset', 'schedule'."
    )


def test_mistyped_block(tmp_path: Path, values: dict[str, Any]) -> None:
    values["trian"] = values.pop("train")
    assert "unknown key 'trian': did you mean 'train'? Allowed: 'profile', 'seeds', 'data'" in refused(tmp_path, values)


def test_out_of_range(tmp_path: Path, values: dict[str, Any]) -> None:
    values["train"]["epochs"] = 0
    assert refused(tmp_path, values) == (
        "params.yaml: train.epochs: got 0. Input should be greater than or equal to 1."
    )


def test_wrong_kind(tmp_path: Path, values: dict[str, Any]) -> None:
    values["finetune"]["learning_rate"] = "fast"
    assert refused(tmp_path, values) == (
        "params.yaml: finetune.learning_rate: got 'fast'. Input should be a valid number."
    )


def test_missing_key(tmp_path: Path, values: dict[str, Any]) -> None:
    del values["checks"]["margin"]
    assert refused(tmp_path, values) == (
        "params.yaml: checks.margin: missing; see params.yaml of the project for its meaning and default."
    )


def test_a_mistyped_profile_is_found_before_it_is_used(tmp_path: Path, values: dict[str, Any]) -> None:
    values["profiles"] = {"mine": {"network": {"chanels": [8]}}}
    assert refused(tmp_path, values) == (
        "params.yaml: profiles.mine: network: unknown key 'chanels': did you mean 'channels'? "
        "Allowed: 'trunk', 'channels', 'convolutions', 'branch_after'."
    )


def test_repeated_seed(tmp_path: Path, values: dict[str, Any]) -> None:
    values["seeds"] = [3, 3]
    assert refused(tmp_path, values) == "params.yaml: seeds: [3, 3] repeats a seed; every replicate needs its own."


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fractions": [0.1, 0.3, 0.2]}, "lesions: fractions [0.1, 0.3, 0.2] must ascend, each of them once."),
        ({"fractions": [0.1, 0.1]}, "lesions: fractions [0.1, 0.1] must ascend, each of them once."),
        ({"fractions": [0.0, 0.1]}, "lesions.fractions.0: got 0.0. Input should be greater than 0."),
        ({"fractions": [0.1, 1.0]}, "lesions.fractions.1: got 1.0. Input should be less than 1."),
        ({"fractions": []}, "lesions.fractions: got []. List should have at least 1 item after validation, not 0."),
        ({"random": 3}, "lesions.random: got 3. Input should be a multiple of 2."),
        ({"random": 0}, "lesions.random: got 0. Input should be greater than or equal to 2."),
        ({"mode": "screen"}, "lesions.mode: got 'screen'. Input should be 'exact' or 'screening'."),
        ({"group_p": 0.0}, "lesions.group_p: got 0.0. Input should be greater than 0."),
        ({"greedy_p": 1.0}, "lesions.greedy_p: got 1.0. Input should be less than 1."),
        ({"images": 0}, "lesions.images: got 0. Input should be greater than or equal to 1."),
        ({"shuffled": 0}, "lesions.shuffled: got 0. Input should be greater than or equal to 1."),
        ({"draws": 99}, "lesions.draws: got 99. Input should be greater than or equal to 100."),
    ],
)
def test_lesions(tmp_path: Path, values: dict[str, Any], changes: dict[str, Any], problem: str) -> None:
    values["lesions"] |= changes
    assert refused(tmp_path, values) == f"params.yaml: {problem}"


def test_lesions_at_the_edge_of_what_is_allowed(tmp_path: Path, values: dict[str, Any]) -> None:
    edge = {"group_p": 1.0, "greedy_p": 0.0, "images": 1, "fractions": [0.5], "random": 2, "shuffled": 1, "draws": 100}
    values["lesions"] |= edge
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert edge.items() <= read_params(tmp_path / "params.yaml").lesions.model_dump().items()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/params.yaml: no such file. Run inside a study directory; `facespec init DIR` makes one."
    )


def test_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: [1, 2")
    with pytest.raises(StudyError, match=r"params\.yaml: not valid YAML: "):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1")
    with pytest.raises(StudyError, match=r"expected a mapping \(name: value\), got a list\."):
        read_params(tmp_path / "params.yaml")


def edited(tmp_path: Path, project: Path, old: str, new: str) -> Path:
    """The project's own `params.yaml` with one text replaced, as by hand."""
    text = (project / "params.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    return tmp_path / "params.yaml"


DECAY = "weight_decay: 0.01            # [O]\n  step_epochs: 30               # [L] sgd"


@pytest.mark.parametrize(
    ("text", "value"), [("1e-2", 0.01), ("1e-5", 0.00001), ("1E-300", 1e-300), ("0", 0.0), (".5", 0.5), ("1_0e-2", 0.1)]
)
def test_numbers_as_they_are_written_by_hand(tmp_path: Path, project: Path, text: str, value: float) -> None:
    path = edited(tmp_path, project, DECAY, DECAY.replace("0.01", text))
    assert read_params(path).train.weight_decay == value


def test_numbers_are_what_dvc_reads(tmp_path: Path, project: Path) -> None:
    """A stage runs again for what DVC reads, and with what facespec reads."""
    from dvc.utils.serialize import load_yaml

    path = edited(tmp_path, project, "  epochs: 8                     #", "  epochs: 010                   #")
    assert read_params(path).train.epochs == load_yaml(path)["train"]["epochs"] == 10
    assert read_mapping(path) == load_yaml(path)


def test_a_key_given_twice(tmp_path: Path, project: Path) -> None:
    path = edited(tmp_path, project, DECAY, f"weight_decay: 0.1\n  {DECAY}")
    line = path.read_text().split("\n").index("  weight_decay: 0.01            # [O]") + 1
    with pytest.raises(StudyError) as caught:
        read_params(path)
    assert str(caught.value) == f"{path}, line {line}: the key 'weight_decay' is given twice: keep one of them."


@pytest.mark.parametrize(
    ("profiles", "problem"),
    [
        ([1], "profiles: got [1]. Expected names, each with the parameters it changes."),
        ({"mine": 7}, "profiles.mine: got 7. Expected the parameters it changes, or {}."),
        ({"mine": None}, "profiles.mine: got None. Expected the parameters it changes, or {}."),
        ({1: {"train": 2}}, "profiles.1: train: got 2. Input should be a valid dictionary or instance of Train."),
    ],
)
def test_profiles_that_are_none(tmp_path: Path, values: dict[str, Any], profiles: Any, problem: str) -> None:
    values["profiles"] = profiles
    assert refused(tmp_path, values) == f"params.yaml: {problem}"


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").symlink_to("gone.yaml")
    with pytest.raises(StudyError, match=r"params\.yaml: a link to gone\.yaml, which does not exist\."):
        read_params(tmp_path / "params.yaml")


def test_numbers_that_are_none(tmp_path: Path, project: Path) -> None:
    for text in (".nan", ".inf", "1e999", "-1e-5"):
        with pytest.raises(
            StudyError, match=r"train\.weight_decay: got .*Input should be (less|greater) than or equal"
        ):
            read_params(edited(tmp_path, project, DECAY, DECAY.replace("0.01", text)))


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings, mappings)
def test_overlays_win_and_repeat_harmlessly(base: dict, overlay: dict) -> None:
    once = merge_params(base, overlay)
    assert merge_params(once, overlay) == once
    assert merge_params(base, {}) == base
    for key, value in overlay.items():
        assert once[key] == value or (isinstance(value, dict) and isinstance(base.get(key), dict))
