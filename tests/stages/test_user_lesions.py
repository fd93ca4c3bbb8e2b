"""Lesions of a user's network: planted segregation, the documented example, continuing a killed run."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import typer.main
from PIL import Image
from torch import nn

from facespec import cli
from facespec.analyses.lesions import LabelledImages
from facespec.stages import sweep
from facespec.stages import user_lesions as stage
from facespec.stages.user_lesions import LesionOptions, UserModel, lesion_study, make_plan, parse_plan
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.tables_lesions import (
    DAMAGE_CURVES,
    DISSOCIATION,
    LESION_CLASSES,
    LESION_RANKING,
    LESIONS,
    SEGREGATION,
)
from toys import USER_MODULE

TABLES = (LESION_RANKING, LESIONS, LESION_CLASSES, DAMAGE_CURVES, DISSOCIATION, SEGREGATION)
SCHEMAS = {table.name: table for table in TABLES}
FILES = {f"{name}.csv{digest}" for name in SCHEMAS for digest in ("", ".sha256")} | {
    f"figure_{name}.{kind}" for name in ("lesions", "lesion_classes") for kind in ("pdf", "png")
}
QUICK = {"images": 5, "greedy_p": 0.3, "random": 2, "shuffled": 1, "draws": 100, "fractions": [0.25, 0.5]}
CASES = np.array([(shape, tint) for shape in range(3) for tint in range(2)])
PEOPLE = 4
Tables = dict[str, pd.DataFrame]


# --- planted networks


class Planted(nn.Module):
    """Units that copy channels, and heads that sum units: `read` maps a task to (classes, channels)."""

    def __init__(self, channels: np.ndarray, **read: torch.Tensor) -> None:
        super().__init__()
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        copied = torch.from_numpy(channels).float()  # (units, channels)
        with torch.random.fork_rng(), torch.no_grad():
            self.conv = nn.Conv2d(copied.shape[1], len(copied), 1, bias=False)
            self.conv.weight.copy_(copied[:, :, None, None])
            self.heads = nn.ModuleDict(
                {task: nn.Linear(len(copied), len(rows), bias=False) for task, rows in read.items()}
            )
            for task, rows in read.items():
                self.heads[task].weight.copy_(rows @ copied.T)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        responses = self.flatten(self.pool(self.relu(self.conv(images))))
        return {task: head(responses) for task, head in self.heads.items()}


CHANNELS = np.array([3, 0, 4, 1, 2, 3, 4, 0, 1, 2, 4, 3])  # of twelve units, in disorder: 0 to 2 are shapes, 3, 4 tints


def make_planted(*, shared: bool) -> Planted:
    """Both heads read the shape units, or each its own; the weights of all other units are 0."""
    shape, tint = torch.eye(5)[:3], torch.eye(5)[3:]
    return Planted(np.eye(5)[CHANNELS], shape=shape, tint=shape if shared else tint)


def make_images(*, shared: bool = False, people: int = PEOPLE) -> LabelledImages:
    """Every person shows every case once; if `shared`, both tasks ask for the shape."""
    shape, tint = np.tile(CASES, (people, 1)).T
    channels = np.hstack([np.eye(3)[shape], np.eye(2)[tint]])
    pixels = torch.from_numpy(channels).float()[:, :, None, None].expand(-1, -1, 3, 7)
    return LabelledImages(lambda positions: pixels[positions], {"shape": shape, "tint": shape if shared else tint})


def study_planted(*, shared: bool = False, network: nn.Module | None = None) -> Tables:
    return lesion_study(
        network or make_planted(shared=shared),
        ["conv"],
        train=make_images(shared=shared, people=3),
        test=make_images(shared=shared),
        people=[f"person {person}" for person in range(PEOPLE) for _ in CASES],
        options=LesionOptions(make_plan(**QUICK | {"images": 18}), name="planted", source="toy", seed=3),
    )


def read_index(tables: Tables, condition: str, fraction: float) -> tuple[float, ...]:
    row = tables["segregation"].query("condition == @condition and fraction == @fraction and quantity == 'index'")
    return tuple(row[["number", "low", "high", "defined", "people"]].iloc[0])


def test_separate_units_are_ranked_first_and_dissociate_doubly() -> None:
    tables = study_planted()
    assert set(tables) == set(SCHEMAS)
    assert read_index(tables, "ranked", 0.5) == (1, 1, 1, 1, PEOPLE)
    ranking = tables["lesion_ranking"].query("condition == 'ranked' and rank < 6")
    for task, channels in (("shape", {0, 1, 2}), ("tint", {3, 4})):
        units = ranking.loc[ranking["ranked_by"] == task, "unit"]
        assert set(CHANNELS[units]) == channels and units.nunique() == 6
    rows = tables["lesions"].query("condition in ('ranked', 'keep') and ranked_by != '' and fraction == 0.5")
    lost = (rows["ranked_by"] == rows["tested_on"]) == (rows["condition"] == "ranked")
    assert len(rows) == 8 and (rows["drop"] == lost).all(), "lesioned units cost their task all, the other nothing"
    dissociation = tables["dissociation"].query("fraction == 0.5")
    assert (dissociation["number"] == 1).all() and set(dissociation["quantity"]) == {"shape", "tint", "index"}
    for damage, matched in tables["dissociation"].query("damage > 0").groupby("damage"):
        assert (matched["number"] == np.where(matched["quantity"] == "index", 1, damage)).all()
    site = tables["lesions"][["trained_on", "source", "seed", "layer", "depth", "units"]].drop_duplicates()
    assert site.to_numpy().tolist() == [["planted", "toy", 3, "conv", 1, 12]]


def test_shared_units_dissociate_nothing() -> None:
    tables = study_planted(shared=True)
    assert read_index(tables, "ranked", 0.5) == (0, 0, 0, 1, PEOPLE)
    assert (tables["dissociation"].query("fraction == 0.5 or damage > 0")["number"] == 0).all()
    assert tables["lesions"].query("condition == 'ranked' and fraction == 0.5")["drop"].min() > 0


def test_units_of_single_classes_dissociate_tasks_that_share_all_units() -> None:
    """As `docs/lesions.md` warns. Every unit responds to a pair of classes, one of either task, and drives both heads.

    Without the 4 units of one class, the other task has 3 units for each of its classes. Without half of the units, two
    classes are never predicted, which costs (1/2) / (3/4) of the accuracy above chance, and every class of the other
    task has 2 units. The same if only that half remains.
    """
    k = 4
    first, second = np.divmod(np.arange(k * k), k)
    pairs = np.hstack([np.eye(k)[first], np.eye(k)[second]])
    network = Planted(pairs, one=torch.eye(2 * k)[:k], other=torch.eye(2 * k)[k:])
    pixels = torch.from_numpy(pairs).float()[:, :, None, None]
    images = LabelledImages(lambda positions: pixels[positions], {"one": first, "other": second})
    plan = make_plan(**QUICK | {"images": 16, "greedy_p": 0.5, "shuffled": 20})
    tables = lesion_study(network, ["conv"], train=images, test=images, options=LesionOptions(plan))
    rows = tables["lesions"].query("condition in ('ranked', 'keep') and ranked_by != ''")
    rows = rows.assign(target=rows["ranked_by"] == rows["tested_on"])
    drops = rows.groupby(["condition", "fraction", "target"])["drop"].agg(["min", "max"]).round(9)
    assert (drops["min"] == drops["max"]).all(), "both tasks lose equally"
    for key, drop in {("ranked", 0.25): 1 / 3, ("ranked", 0.5): 2 / 3, ("keep", 0.25): 1, ("keep", 0.5): 2 / 3}.items():
        assert drops["min"][key].to_dict() == pytest.approx({True: drop, False: 0}), key
    assert read_index(tables, "ranked", 0.25)[:3] == read_index(tables, "ranked", 0.5)[:3] == (1, 1, 1)
    assert abs(read_index(tables, "shuffled", 0.5)[0]) < 0.2
    # recalls show it: some classes are lost, the others are not
    half = tables["lesion_classes"].query("fraction == 0.5 and ranked_by == tested_on")
    assert half.groupby("tested_on")["recall"].apply(sorted).to_list() == [[0, 0, 1, 1]] * 2
    lost = tables["lesions"].query("fraction == 0.5 and condition == 'ranked' and ranked_by == tested_on")
    assert lost["between_classes"].to_list() == [1, 1]


def test_the_network_is_unchanged() -> None:
    network = make_planted(shared=False).train()
    network.relu.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes, children = [module.training for module in network.modules()], list(network.named_modules())
    study_planted(network=network)
    assert [module.training for module in network.modules()] == modes
    assert list(network.named_modules()) == children
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())


def test_without_people_every_image_counts_as_one_and_the_order_of_layers_is_their_depth() -> None:
    images, options = make_images(), LesionOptions(make_plan(**QUICK), workers=2)
    tables = lesion_study(make_planted(shared=False), ["relu", "conv"], train=images, test=images, options=options)
    segregation = tables["segregation"]
    assert set(segregation["people"]) == {len(images)}
    assert set(zip(segregation["layer"], segregation["depth"], strict=True)) == {("relu", 1), ("conv", 2)}
    assert set(segregation["source"]) == {"own images"} and set(segregation["trained_on"]) == {"own"}


# --- plans and options


def test_the_default_plan_is_that_of_the_project(project: Path) -> None:
    plan = read_params(project / "params.yaml").lesions
    assert make_plan() == plan
    changes = {"images": 7, "mode": "screening", "fractions": [0.5]}
    assert parse_plan(["images=7", "mode=screening", "fractions=[0.5]"]) == plan.model_copy(update=changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["mode=quick"], "mode: Input should be 'exact' or 'screening'"),
        (["image=7"], "unknown key 'image': did you mean 'images'?"),
        (
            ["random=3", "images=0"],
            "greater than or equal to 1\nplan of lesions: random: Input should be a multiple of 2",
        ),
        (["images"], "setting 'images': expected NAME=VALUE, for example images=64"),
        (["=3"], "setting '=3': expected NAME=VALUE"),
        (["fractions=[0.1"], "setting 'fractions=[0.1': not valid YAML"),
        (["images=3", "images=4"], "setting 'images=4': images is set twice. Keep one"),
        (["images=010", "random=1e-1"], "plan of lesions: random: Input should be a valid integer"),
    ],
)
def test_settings_that_are_not_allowed(settings: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        parse_plan(settings)


@pytest.mark.parametrize("change", [{"name": ""}, {"source": ""}, {"seed": -1}, {"workers": 0}])
def test_options_that_no_table_could_hold(change: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="name and source need a letter; seed is at least 0, workers at least 1"):
        LesionOptions(**change)


# --- a user's files


@pytest.fixture
def model(tmp_path: Path) -> UserModel:
    """A module, twelve pictures of 9x6 px and their labels, as files."""
    (tmp_path / "toy.py").write_text(USER_MODULE)
    draw, lines = np.random.default_rng(3), ["split,shape,image,tint,group"]
    (tmp_path / "pictures").mkdir()
    for number, (shape, tint) in enumerate([*CASES, *CASES]):
        pixels = draw.integers(256, size=(6, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
        lines.append(f"{'train' if number < 6 else 'test'},{shape},pictures/{number}.png,{tint},person {number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return UserModel(f"{tmp_path / 'toy.py'}:network", tmp_path / "labels.csv", ["conv"], 5)


RunJobs = Callable[..., int]


@pytest.fixture
def run_jobs(model: UserModel, monkeypatch: pytest.MonkeyPatch) -> RunJobs:
    """Run the command; returns how many jobs were not saved. It is stopped before number `limit`; figures are empty."""

    def run(to: Path, *, limit: int = 99, figures: bool = False) -> int:
        jobs, original = [], sweep._order_units

        def count(*args: Any) -> pd.DataFrame:
            if len(jobs) == limit:
                raise RuntimeError("power failure")
            jobs.append(args)
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(sweep, "_order_units", count)
            if not figures:
                for name in ("draw_figure_lesions", "draw_figure_lesion_classes"):
                    patch.setattr(stage, name, lambda *_: plt.figure(figsize=(1, 1)))
            stage.run(model, make_plan(**QUICK), to=to, device="cpu", workers=1)
        return len(jobs)

    return run


def list_names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_stopped_run_continues_and_its_files_are_the_same(run_jobs: RunJobs, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_jobs(first, figures=True) == 4  # both tasks, shuffled classes, random units
    second.mkdir()
    (second / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="power failure"):
        run_jobs(second, limit=2)
    assert list_names(second) == {"notes.txt", ".unfinished"}
    assert run_jobs(second, figures=True) == 2
    assert list_names(first) == FILES and list_names(second) == FILES | {"notes.txt"}
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name, schema in SCHEMAS.items():
        table = schema.read(first / f"{name}.csv")
        assert set(table["trained_on"]) == {"toy"} and set(table["source"]) == {"labels.csv"}
    assert set(SEGREGATION.read(first / "segregation.csv")["people"]) == {2}


def test_links_serve_as_directories_and_other_files_remain(run_jobs: RunJobs, tmp_path: Path) -> None:
    """Links for all results and for unfinished jobs, as to another disk."""
    for name in ("disk", "scratch"):
        (tmp_path / name / "thesis").mkdir(parents=True)
        (tmp_path / name / "notes.txt").write_text("mine")
    (tmp_path / "to").symlink_to("disk")
    (tmp_path / "disk" / ".unfinished").symlink_to(tmp_path / "scratch")
    with pytest.raises(RuntimeError, match="power failure"):
        run_jobs(tmp_path / "to", limit=2)
    assert run_jobs(tmp_path / "to") == 2
    assert list_names(tmp_path / "disk") == FILES | {"notes.txt", "thesis", ".unfinished"}
    assert (tmp_path / "to").is_symlink() and (tmp_path / "disk" / ".unfinished").is_symlink()
    assert list_names(tmp_path / "scratch") == {"notes.txt", "thesis"}


@pytest.mark.parametrize("name", ["\\frac{$$ 50 %\n\t", "_表情😀" + "x" * 300])
def test_tasks_of_any_name_reach_the_last_figure(
    model: UserModel, run_jobs: RunJobs, tmp_path: Path, name: str
) -> None:
    pd.read_csv(model.labels).rename(columns={"shape": name}).to_csv(model.labels, index=False)
    (tmp_path / "toy.py").write_text(USER_MODULE.replace('"shape"', repr(name.strip())))
    assert run_jobs(tmp_path / "to", figures=True) == 4
    assert list_names(tmp_path / "to") == FILES
    assert set(LESIONS.read(tmp_path / "to" / "lesions.csv")["tested_on"]) == {"tint", name.strip()}


def change_image(directory: Path) -> None:
    Image.new("RGB", (9, 6), (1, 2, 3)).save(directory / "pictures" / "7.png")


def change_label(directory: Path) -> None:
    table = directory / "labels.csv"
    table.write_text(table.read_text().replace("train,0,pictures/0.png,0", "train,0,pictures/0.png,1"))


def change_weights(directory: Path) -> None:
    (directory / "toy.py").write_text(USER_MODULE.replace("manual_seed(5)", "manual_seed(51)"))


def change_forward(directory: Path) -> None:
    """The weights are the same."""
    (directory / "toy.py").write_text(USER_MODULE.replace("self.tint(responses)", "-self.tint(responses)"))


@pytest.mark.parametrize("change", [change_image, change_label, change_weights, change_forward])
def test_saved_jobs_of_other_images_labels_or_networks_are_not_used(
    run_jobs: RunJobs, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    with pytest.raises(RuntimeError):
        run_jobs(tmp_path / "to", limit=3)
    change(tmp_path)
    assert run_jobs(tmp_path / "to") == 4


# --- the command and its documentation


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of ``facespec``."""
    monkeypatch.setattr(sys, "argv", ["facespec", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("--module a.py:b", "--labels, --layer, --to"),
        ("--labels t.csv --layer x --to d", "--module"),
        ("--size 9", "--module, --labels, --layer, --to"),
        ("--mode exact", "--module, --labels, --layer, --to"),
        ("--set images=9", "--module, --labels, --layer, --to"),
    ],
)
def test_all_options_for_a_network_are_needed_or_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, missing: str
) -> None:
    assert run_command(monkeypatch, "lesions", *words.split()) == 2
    assert f"missing: {missing}. Without any of its options" in capsys.readouterr().err


def test_without_options_the_networks_of_the_study_are_lesioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, "lesions", "--workers", "1") == 2
    assert capsys.readouterr().err.startswith("facespec: params.yaml: no such file.")


@pytest.mark.pipeline
def test_the_documented_example_runs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "docs" / "lesions.md").read_text()
    scripts = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.S))
    assert list(scripts) == ["stripes.py", "study.py"]
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (commands,) = re.findall(r"```console\n(.*?)```", text, re.S)
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        if program == "python":
            runpy.run_path(words[0], run_name="__main__")
        else:
            assert run_command(monkeypatch, *words) == 0
    assert capsys.readouterr().out == "results: six tables, figure_lesions and figure_lesion_classes.\n"
    assert list_names(Path("results")) == FILES
    tables = {name: schema.read(Path("results") / f"{name}.csv") for name, schema in SCHEMAS.items()}
    assert list(tables["segregation"]["layer"].unique()) == ["trunk.layer3.0.conv1", "trunk.layer4.1.conv1"]
    assert tables["lesions"]["drop"].notna().all() and (tables["lesions"]["drop"] > 0.5).any()
    assert set(tables["segregation"]["people"]) == {4}
    runpy.run_path("study.py", run_name="__main__")
    monkeypatch.delitem(sys.modules, "stripes")
    assert "trunk.layer3.0.conv1" in capsys.readouterr().out and Path("stripes.png").stat().st_size > 10_000


def test_every_option_of_the_command_is_documented(project: Path) -> None:
    documented = set(re.findall(r"^\| (`--[^|]+) \|", (project / "docs" / "lesions.md").read_text(), re.M))
    options = typer.main.get_command(cli.app).commands["lesions"].params
    assert set(re.findall("--[a-z]+", " ".join(documented))) == {option.opts[0] for option in options}
