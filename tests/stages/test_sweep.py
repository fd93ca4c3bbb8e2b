"""A sweep of two small networks: its tables against forward passes, and which saved jobs a second run uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.models.device import deterministic_torch
from facespec.stages import sweep as stage
from facespec.stages.sweep import LesionJob, Subject, Sweep, remove_saved_jobs, run_sweep
from facespec.study.arrays import read_arrays, write_arrays
from facespec.study.errors import StudyError
from facespec.study.params import Lesions
from facespec.study.pickles import write_pickle
from toys import make_network, randomise_norms

pytestmark = pytest.mark.usefixtures("one_thread")

LOW, HIGH = "trunk.conv1", "trunk.conv2"
UNITS = {LOW: 6, HIGH: 5}
PLAN = Lesions(
    group_p=0.2,
    greedy_p=0.4,
    images=20,
    mode="exact",
    fractions=[0.2, 0.5],
    damages=[0.25, 0.4],
    steps=[0.6, 0.8],
    random=4,
    shuffled=2,
    draws=100,
    seed=3,
)
LESIONED = {0.0: 0, 0.2: 1, 0.5: 3}  # units, of 5 and of 6
JOBS = 2 * 2 * (2 + 2 + 1)
RANKINGS = 2 + 2 * 2  # of one network and layer: by two tasks, and by two mixtures in two draws
Tables = dict[str, pd.DataFrame]


def make_small(shift: float = 0.0) -> nn.Module:
    """Two convolutions; every class is predicted for some images."""
    network = randomise_norms(make_network((6, 5), classes={"expression": 3, "identity": 2}))
    with torch.no_grad():
        for task, logits in network(random_pictures(200, seed=9)).items():
            network.heads[task].bias -= logits.mean(dim=0)
        network.trunk.norm2.bias += shift
    return network


def random_pictures(n: int, *, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 1, 12, 8)).astype(np.float32))


def make_images(n: int, *, seed: int) -> LabelledImages:
    """Classes are mostly those that the first network predicts, so that it is above chance; some are not known."""
    draw, pictures = np.random.default_rng(seed), random_pictures(n, seed=seed + 100)
    with torch.no_grad():
        predicted = {task: logits.argmax(dim=1).numpy() for task, logits in make_small()(pictures).items()}
    changed = draw.random(n) < 0.15
    classes = {task: np.where(changed, draw.integers(-1, 2, size=n), codes) for task, codes in predicted.items()}
    return LabelledImages(lambda positions: pictures[positions], classes)


@pytest.fixture(scope="module")
def small() -> Sweep:
    """Two similar networks; 7 people with 6 images each."""
    train, test, depths = make_images(30, seed=1), make_images(42, seed=6), {LOW: 1, HIGH: 2}
    subjects = [
        Subject(make_small(shift), seed, depths, train, test, f"digest {seed}") for seed, shift in ((5, 0.0), (8, 0.02))
    ]
    return Sweep("joint", "noise", subjects, pd.Series(np.repeat(list("gbadcfe"), 6)), PLAN)


@pytest.fixture(scope="module")
def tables(small: Sweep) -> Tables:
    with deterministic_torch():
        return run_sweep(small, workers=1)


@pytest.fixture(scope="module")
def one_layer(small: Sweep) -> Sweep:
    """One network, one layer."""
    return replace(small, subjects=[replace(small.subjects[0], layers={HIGH: 2})])


@pytest.fixture(scope="module")
def layer_tables(one_layer: Sweep) -> Tables:
    with deterministic_torch():
        return run_sweep(one_layer, workers=1)


def assert_equal_tables(got: Tables, wanted: Tables) -> None:
    assert list(got) == list(wanted)
    for name, table in got.items():
        pd.testing.assert_frame_equal(table, wanted[name], check_exact=True)


def with_test_images(sweep: Sweep, classes: dict[str, np.ndarray]) -> Sweep:
    images = sweep.subjects[0].test.images
    return replace(
        sweep, subjects=[replace(subject, test=LabelledImages(images, classes)) for subject in sweep.subjects]
    )


# --- the tables


def test_jobs_of_a_network_and_layer_stand_together(small: Sweep) -> None:
    choices = [
        ("ranked", 0, "expression"),
        ("ranked", 0, "identity"),
        ("shuffled", 0, ""),
        ("shuffled", 1, ""),
        ("random",),
    ]
    jobs = [(seed, LesionJob(layer, *choice)) for seed in (5, 8) for layer in (LOW, HIGH) for choice in choices]
    assert [(subject.seed, job) for subject, job in small.list_jobs()] == jobs and len(jobs) == JOBS


def test_two_workers_give_the_same_tables(small: Sweep, tables: Tables) -> None:
    assert_equal_tables(run_sweep(small, workers=2), tables)
    assert list(tables) == [
        "lesion_ranking",
        "lesions",
        "lesion_classes",
        "damage_curves",
        "dissociation",
        "segregation",
    ]


def test_tables_name_mode_and_procedure(one_layer: Sweep, layer_tables: Tables) -> None:
    plan = PLAN.model_copy(update={"mode": "screening", "greedy_p": 0.0})
    other = run_sweep(replace(one_layer, plan=plan), workers=1)
    for table, expected in (
        (layer_tables["lesion_ranking"], ("exact", "greedy", 3)),
        (other["lesion_ranking"], ("screening", "one-pass", 1)),
    ):
        (mode,), (procedure,) = table["mode"].unique(), table["procedure"].unique()
        assert (mode, procedure, table["round"].nunique()) == expected


def classify(network: nn.Module, layer: str, test: LabelledImages, lesion: list[int]) -> dict[str, np.ndarray]:
    """Of the images whose class is known, those classified correctly in one forward pass with units set to 0."""
    mask = torch.ones(UNITS[layer]).index_fill(0, torch.tensor(lesion, dtype=torch.int64), 0)[:, None, None]
    rectifier = network.get_submodule(layer.replace("conv", "relu"))
    handle = rectifier.register_forward_hook(lambda module, inputs, output: output * mask)
    with torch.no_grad():
        logits = network(test.images(np.arange(len(test))))
    handle.remove()
    return {task: (logits[task].argmax(dim=1).numpy() == codes)[codes >= 0] for task, codes in test.classes.items()}


def count_best(classes: np.ndarray) -> float:
    """The accuracy of the best constant response."""
    known = classes[classes >= 0].tolist()
    return max(known.count(code) for code in set(known)) / len(known)


@pytest.mark.parametrize(("condition", "rows"), [("ranked", 3), ("keep", 2), ("shuffled", 4)])
def test_accuracies_and_drops_equal_those_of_forward_passes(
    small: Sweep, tables: Tables, condition: str, rows: int
) -> None:
    lesions, orders = tables["lesions"].query("condition == @condition and ranked_by != ''"), tables["lesion_ranking"]
    assert len(lesions) == 2 * 2 * rows * 2 * 2  # networks, layers, tasks by which units are ranked, tested tasks
    subjects, drops = {subject.seed: subject for subject in small.subjects}, []
    for row in lesions.to_dict("records"):
        subject, layer = subjects[row["seed"]], row["layer"]
        keys = {name: row[name] for name in ("seed", "layer", "draw", "ranked_by")}
        keys["condition"] = "shuffled" if condition == "shuffled" else "ranked"
        order = orders[(orders[list(keys)] == pd.Series(keys)).all(axis=1)].sort_values("rank")["unit"].tolist()
        assert sorted(order) == list(range(UNITS[layer]))
        number = LESIONED[row["fraction"]]
        lesion = order[number:] if condition == "keep" else order[:number]
        whole, lesioned = (
            classify(subject.network, layer, subject.test, units)[row["tested_on"]].mean() for units in ([], lesion)
        )
        classes = subject.test.classes[row["tested_on"]]
        assert (row["units"], row["silenced"], row["n"]) == (len(order), len(lesion), (classes >= 0).sum())
        assert row["chance"] == pytest.approx(count_best(classes), abs=1e-12) and row["accuracy"] == lesioned
        assert row["drop"] == pytest.approx((whole - lesioned) / (whole - count_best(classes)), abs=1e-8)
        assert row["reason"] == "" and row["depth"] == {LOW: 1, HIGH: 2}[layer]
        drops.append(row["drop"])
    assert len(set(drops)) > 8 and max(drops) > 0.3, "lesions in this toy do too little: change its weights"


def test_damage_curves_equal_forward_passes_and_end_without_the_layer(small: Sweep, tables: Tables) -> None:
    """A point after every greedy round, at every fraction, at steps where too little is lost, and at the end."""
    curves, orders = tables["damage_curves"], tables["lesion_ranking"].sort_values("rank")
    subjects = {subject.seed: subject for subject in small.subjects}
    keys = ["seed", "layer", "condition", "draw", "ranked_by"]
    whole = tables["lesions"].query("fraction == 0 and ranked_by == 'identity'")
    whole = whole.set_index(["seed", "layer", "tested_on"])["accuracy"]
    assert curves.groupby(keys).ngroups == 2 * 2 * (2 + 2 * 2 + 4)
    for (seed, layer, condition, draw, ranked_by), rows in curves.groupby(keys):
        least = {1, 3, UNITS[layer]} | ({1, 2} if condition != "random" else set())  # greedy: 1 and 1 of 6 and of 5
        found = {task: part.set_index("silenced")["drop"] for task, part in rows.groupby("tested_on")}
        assert least <= set(rows["silenced"]) <= least | {4, 5 if layer == LOW else 4}
        task = ranked_by or ("expression", "identity")[draw % 2]
        late = rows.query("silenced == 4")
        assert len(late) == 2 * (found[task][sorted(least)[:-1]] < 0.7).all()  # half-way from the largest damage to 1
        if condition == "random":
            continue
        order = orders[(orders[keys] == pd.Series(dict(zip(keys, rows[keys].iloc[0], strict=True)))).all(axis=1)][
            "unit"
        ]
        for row in rows.to_dict("records"):
            lesion = order.tolist()[: row["silenced"]]
            correct = classify(subjects[seed].network, layer, subjects[seed].test, lesion)[row["tested_on"]]
            intact = whole[seed, layer, row["tested_on"]]
            assert (row["accuracy"], row["n"], row["units"]) == (correct.mean(), len(correct), UNITS[layer])
            assert row["drop"] == pytest.approx((intact - row["accuracy"]) / (intact - row["chance"]), abs=1e-8)


def test_matched_damage_is_read_off_the_curves(small: Sweep) -> None:
    """Differences of `dissociation` from the rows of the curves; all people have as many images with known classes."""
    sweep = with_test_images(small, {task: np.abs(codes) for task, codes in small.subjects[0].test.classes.items()})
    tables = run_sweep(sweep, workers=1)
    rows = tables["dissociation"].query("damage > 0 and resample == -1 and quantity != 'index'")
    assert len(rows) == 2 * 2 * 2 * 2 and rows["fraction"].isna().all()
    curves = tables["damage_curves"].query("condition == 'ranked'").sort_values("silenced")
    for row in rows.to_dict("records"):
        keys = {"seed": row["seed"], "layer": row["layer"], "ranked_by": row["quantity"]}
        curve = curves[(curves[list(keys)] == pd.Series(keys)).all(axis=1)]
        target, other = (
            np.array([0.0, *curve[(curve["tested_on"] == row["quantity"]) == same]["drop"]]) for same in (True, False)
        )
        silenced = np.array([0.0, *(curve.drop_duplicates("silenced")["silenced"] / UNITS[row["layer"]])])
        if not (target >= row["damage"]).any():
            assert np.isnan(row["number"]) and row["reason"].startswith("silencing the units chosen for")
            continue
        end = int((target >= row["damage"]).argmax())
        place = np.interp(row["damage"], target[end - 1 : end + 1], [end - 1, end])
        assert row["number"] == pytest.approx(row["damage"] - np.interp(place, range(len(other)), other), abs=1e-8)
        assert row["needed"] == pytest.approx(np.interp(place, range(len(other)), silenced), abs=1e-8)


def test_recalls_equal_those_of_forward_passes(small: Sweep, tables: Tables) -> None:
    """And `between_classes` of LESIONS is what the classes explain."""
    subjects = {subject.seed: subject for subject in small.subjects}
    orders = tables["lesion_ranking"].query("condition == 'ranked'").sort_values("rank")
    keys = ["seed", "layer", "ranked_by", "fraction", "tested_on"]
    groups = tables["lesion_classes"].groupby(keys)
    assert len(groups) == 2 * 2 * 2 * 3 * 2
    lesions = tables["lesions"].query("condition == 'ranked'").set_index(keys)
    for (seed, layer, ranked_by, fraction, tested_on), rows in groups:
        order = orders.query("seed == @seed and layer == @layer and ranked_by == @ranked_by")["unit"].tolist()
        test = subjects[seed].test
        correct = classify(subjects[seed].network, layer, test, order[: LESIONED[fraction]])[tested_on]
        known = test.classes[tested_on][test.classes[tested_on] >= 0]
        by_class = {code: correct[known == code] for code in np.unique(known)}
        assert rows["class"].tolist() == list(by_class) and rows["n"].tolist() == [*map(len, by_class.values())]
        assert rows["recall"].tolist() == pytest.approx([part.mean() for part in by_class.values()], abs=1e-12)
        squares = sum(((part - part.mean()) ** 2).sum() for part in by_class.values())
        if correct.var():
            unexplained = squares / (len(known) - len(by_class)) / correct.var(ddof=1)
            between = lesions.loc[(seed, layer, ranked_by, fraction, tested_on), "between_classes"]
            assert between == pytest.approx(1 - unexplained, abs=1e-9)


def test_random_units_are_not_ranked_and_drawn_independently(tables: Tables) -> None:
    rows = tables["lesions"].query("condition == 'random'")
    assert set(rows["ranked_by"]) == {""} and sorted(set(rows["draw"])) == [0, 1, 2, 3]
    assert "random" not in set(tables["lesion_ranking"]["condition"])
    kept = tables["lesions"].query("condition == 'keep' and ranked_by == ''")
    both = rows.merge(kept, on=["seed", "layer", "draw", "fraction", "tested_on"], suffixes=("", "_kept"))
    assert len(both) == len(rows) == len(kept) and (both["silenced"] + both["silenced_kept"] == both["units"]).all()
    assert (both["accuracy"] != both["accuracy_kept"]).mean() > 0.4
    accuracies = rows.query("fraction == 0.5").groupby(["seed", "layer", "tested_on"])["accuracy"]
    assert (accuracies.nunique() > 1).any()


def test_random_draws_are_used_in_pairs(small: Sweep) -> None:
    """Differences from the rows of single draws; all people have as many images with known classes."""
    sweep = with_test_images(small, {task: np.abs(codes) for task, codes in small.subjects[0].test.classes.items()})
    tables = run_sweep(sweep, workers=1)
    keys = ["condition", "layer", "fraction", "seed", "draw", "ranked_by", "tested_on"]
    drops = tables["lesions"].set_index(keys)["drop"].sort_index()
    for row in tables["segregation"].query("quantity != 'index' and fraction > 0").to_dict("records"):
        condition, task = row["condition"], row["quantity"]
        other = {"expression": "identity", "identity": "expression"}[task]
        draws = {"ranked": [0], "shuffled": [0, 1], "random": [1, 3] if task == "identity" else [0, 2]}[condition]
        by = "" if condition == "random" else task
        cells = [drops[condition, row["layer"], row["fraction"], seed, draw, by] for seed in (5, 8) for draw in draws]
        assert row["number"] == pytest.approx(np.mean([drop[task] - drop[other] for drop in cells]), abs=1e-8), row


def test_layers_are_compared_by_the_same_people_and_mixtures(one_layer: Sweep) -> None:
    """One layer by two names, ranked on all images: any difference would come from the generators."""
    subject = replace(one_layer.subjects[0], layers={HIGH: 1, "trunk.norm2": 1})
    plan = PLAN.model_copy(update={"images": 30})
    tables = run_sweep(replace(one_layer, subjects=[subject], plan=plan), workers=1)
    for name, query in (
        ("lesions", "condition != 'random' and ranked_by != ''"),
        ("dissociation", "depth == 1"),
        ("segregation", "condition != 'random'"),
    ):
        table = tables[name].query(query)
        first, second = (table[table["layer"] == layer].drop(columns="layer") for layer in (HIGH, "trunk.norm2"))
        pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True), check_exact=True)


def test_chance_where_people_have_equal_weight(one_layer: Sweep) -> None:
    """Many images of one person: a constant response is correct for all of hers, and for nobody else's."""
    classes, network = np.array([1] * 40 + [0, 0]), make_small()
    with torch.no_grad():  # always class 1
        network.heads["expression"].weight.zero_()
        network.heads["expression"].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    sweep = with_test_images(one_layer, {"expression": classes, "identity": 1 - classes})
    sweep = replace(sweep, subjects=[replace(sweep.subjects[0], network=network)])
    tables = run_sweep(replace(sweep, group=pd.Series(["a"] * 40 + ["b", "c"])), workers=1)
    assert set(tables["lesions"].query("tested_on == 'expression'")["chance"]) == {40 / 42}
    # correct for one of three people; a constant 0 would be correct for two
    rows = tables["dissociation"].query("quantity == 'expression' and resample == -1")
    assert rows["number"].isna().all()
    assert set(rows["reason"]) == {"the whole network is not above chance on expression"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda second: {"layers": {LOW: 1}},
            "layers [(('trunk.conv1', 1),), (('trunk.conv1', 1), ('trunk.conv2', 2))]",
        ),
        (
            lambda second: {"train": LabelledImages(second.train.images, dict(reversed(second.train.classes.items())))},
            "share tasks and layers; got tasks [('expression', 'identity'), ('identity', 'expression')]",
        ),
        (lambda second: {"seed": 5}, "need different seeds; got [5, 5]"),
        (lambda second: {"test": make_images(41, seed=6)}, "the same images of known people, got [41, 42]"),
    ],
)
def test_networks_that_cannot_be_compared(
    small: Sweep, change: Callable[[Subject], dict[str, Any]], message: str
) -> None:
    first, second = small.subjects
    with pytest.raises(StudyError, match=re.escape(message)):
        replace(small, subjects=[first, replace(second, **change(second))])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"subjects": []}, "got tasks [] and layers []"), ({"group": pd.Series(range(41))}, "got [41, 42]")],
)
def test_sweeps_without_networks_or_names(small: Sweep, change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        replace(small, **change)


# --- saved jobs


class RankingCounter:
    """Counts rankings; raises before number `limit`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, limit: int = 1000) -> None:
        self.calls, original = 0, stage.rank_units

        def count(*args: Any, **options: Any) -> pd.DataFrame:
            if self.calls == limit:
                raise RuntimeError("killed")
            self.calls += 1
            return original(*args, **options)

        monkeypatch.setattr(stage, "rank_units", count)


def test_a_killed_sweep_continues(
    small: Sweep, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = replace(small, jobs_directory=tmp_path / "jobs")
    RankingCounter(monkeypatch, limit=9)  # within a pair of mixtures, whose first ranking is lost
    with pytest.raises(RuntimeError, match="killed"):
        run_sweep(saved, workers=1)
    monkeypatch.undo()
    finished = sum(len(read_arrays(file, remedy="")[1].get("rank", [])) for file in saved.jobs_directory.iterdir())
    assert finished == 6 * RANKINGS + 2 * 5, "finished jobs of the first layer, and of the second one draw of mixtures"
    after = RankingCounter(monkeypatch)
    assert_equal_tables(run_sweep(saved, workers=1), tables)
    assert after.calls == 4 * RANKINGS - 8 and len(list(saved.jobs_directory.iterdir())) == JOBS
    assert_equal_tables(run_sweep(saved, workers=2), tables)
    assert after.calls == 4 * RANKINGS - 8, "saved jobs were run again"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def write_a_pickle(file: Path) -> None:
    """As an earlier version of the program saved results."""
    write_pickle(file, {"fingerprint": "old", "result": {"units": 5}})


def copy_another_job(file: Path) -> None:
    others = [other for other in sorted(file.parent.iterdir()) if other.read_bytes() != file.read_bytes()]
    file.write_bytes(others[0].read_bytes())


def write_other_arrays(file: Path) -> None:
    """As another version of the program might save results."""
    write_arrays(file, {"fingerprint": "old", "units": 5}, {})


def link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


@pytest.mark.parametrize(
    "harm",
    [cut, flip_a_bit, write_a_pickle, copy_another_job, write_other_arrays, link_to_nothing, Path.unlink],
)
def test_damaged_and_foreign_files_are_not_used(
    one_layer: Sweep,
    layer_tables: Tables,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:
    saved = replace(one_layer, jobs_directory=tmp_path)
    run_sweep(saved, workers=1)
    ranked = [file for file in sorted(tmp_path.iterdir()) if len(read_arrays(file, remedy="")[1].get("rank", [])) == 5]
    assert len(ranked) == 2
    harm(ranked[0])
    counter = RankingCounter(monkeypatch)
    assert_equal_tables(run_sweep(saved, workers=1), layer_tables)
    assert counter.calls == 1


def test_results_of_another_plan_network_or_program_are_not_used(
    one_layer: Sweep, layer_tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = replace(one_layer, jobs_directory=tmp_path)
    run_sweep(saved, workers=1)
    more_draws = replace(saved, plan=PLAN.model_copy(update={"draws": 120}))
    other_seed = replace(saved, plan=PLAN.model_copy(update={"seed": 4}))
    other_digest = replace(saved, subjects=[replace(saved.subjects[0], digest="other weights")])
    counter = RankingCounter(monkeypatch)
    run_sweep(more_draws, workers=1)
    assert counter.calls == 0, "draws concern the final tables only"
    for sweep in (other_seed, other_digest, saved):  # each replaces the files of the one before
        counter.calls = 0
        tables = run_sweep(sweep, workers=1)
        assert counter.calls == RANKINGS
        if sweep is other_seed:
            assert_equal_tables(tables, run_sweep(replace(sweep, jobs_directory=None), workers=1))
        else:
            assert_equal_tables(tables, layer_tables)
    monkeypatch.setattr(stage, "identify_computation", lambda stage: "another version")
    counter.calls = 0
    run_sweep(saved, workers=1)
    assert counter.calls == RANKINGS


def test_only_files_of_jobs_are_removed_and_their_directory_if_it_is_empty(tmp_path: Path) -> None:
    directory, job = tmp_path / "jobs", f"{0xAB:016x}{stage.SUFFIX}"
    directory.mkdir()
    foreign = {"notes.txt", "0123456789abcdef", "0123456789ABCDEF" + stage.SUFFIX, f"12{job}", f".{job}.partial"}
    for name in (job, f".{job}.x1_y2z3w.partial", *foreign):
        (directory / name).write_text("content")
    (directory / ("f" * 16 + stage.SUFFIX)).mkdir()
    remove_saved_jobs(directory)
    assert {path.name for path in directory.iterdir()} == foreign | {"f" * 16 + stage.SUFFIX}
    for path in directory.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    (directory / job).touch()
    (tmp_path / "link").symlink_to("jobs")
    remove_saved_jobs(tmp_path / "link")  # the files behind the link; the link stays
    assert (tmp_path / "link").is_symlink() and not any(directory.iterdir())
    remove_saved_jobs(directory)
    assert not directory.exists()
    remove_saved_jobs(directory)  # no error


class Hyphens(nn.Module):
    """Layers and tasks with hyphens in their names."""

    def __init__(self, layers: list[str], tasks: list[str]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in layers})
            self.heads = nn.ModuleDict({name: nn.Linear(4, 3) for name in tasks})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers.values():
            images = torch.relu(layer(images))
        return {name: head(images) for name, head in self.heads.items()}


def test_names_of_layers_and_tasks_do_not_collide(tmp_path: Path) -> None:
    """Joined by hyphens, the first layer ranked by the second task reads as the second ranked by the first."""
    layers, tasks = ["x", "x-ranked-0-y"], ["t", "y-ranked-0-t"]
    pixels = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    classes = {tasks[0]: np.arange(12) % 3, tasks[1]: np.arange(12) % 2}
    images = LabelledImages(lambda positions: pixels[positions], classes)
    depths = {f"layers.{name}": depth for depth, name in enumerate(layers, start=1)}
    subject = Subject(Hyphens(layers, tasks).eval(), 0, depths, images, images, "digest")
    sweep = Sweep("named", "noise", [subject], pd.Series(range(12)), PLAN, tmp_path)
    tables = run_sweep(sweep, workers=1)
    assert len(list(tmp_path.iterdir())) == len(sweep.list_jobs()) == 2 * (2 + 2 + 1)
    assert_equal_tables(tables, run_sweep(replace(sweep, jobs_directory=None), workers=1))
