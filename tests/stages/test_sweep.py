"""A sweep of a little network: its jobs, and its tables from forward passes by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.models.device import deterministic_torch
from facespec.stages import sweep as sweeping
from facespec.stages.sweep import run_sweep
from facespec.stages.sweep_jobs import Lesion, LesionJob, Subject, Sweep, list_lesions
from facespec.study.errors import StudyError
from facespec.study.params import Lesions

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = {"low": 6, "high": 5}
PLAN = Lesions(
    group_p=0.2, greedy_p=0.4, images=20, mode="exact", fractions=[0.2, 0.5], random=4, shuffled=2, draws=100, seed=3
)
JOBS = 2 * 2 * (2 + 2 + 1)


class Small(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.low, self.low_relu, self.pool = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2)
            self.high, self.high_relu, self.flat = nn.Conv2d(6, 5, 2), nn.ReLU(), nn.Flatten()
            self.shape, self.colour = nn.Linear(5 * 4 * 2, 3), nn.Linear(5 * 4 * 2, 2)
        draw = torch.Generator().manual_seed(seed)
        self.to_empty(device="cpu")
        self.load_state_dict({name: torch.randn(own.shape, generator=draw) for name, own in self.state_dict().items()})
        with torch.no_grad():  # every class is the answer to some images
            for task, logits in self(torch.randn((200, 1, 12, 8), generator=draw)).items():
                self.get_submodule(task).bias -= logits.mean(dim=0)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        shown = self.flat(self.high_relu(self.high(self.pool(self.low_relu(self.low(images))))))
        return {"shape": self.shape(shown), "colour": self.colour(shown)}


def trials(n: int, *, seed: int) -> LabelledImages:
    """Classes are mostly what network 0 answers, so that it is above chance; some are not known."""
    draw = np.random.default_rng(seed)
    images = torch.from_numpy(draw.normal(size=(n, 1, 12, 8)).astype(np.float32))
    with torch.no_grad():
        answers = {task: logits.argmax(dim=1).numpy() for task, logits in Small(0)(images).items()}
    classes = {
        task: np.where(draw.random(n) < 0.15, draw.integers(-1, 2, size=n), own) for task, own in answers.items()
    }
    return LabelledImages(lambda rows: images[rows], classes)


@pytest.fixture(scope="module")
def little() -> Sweep:
    """Two networks, the second a little off the first; 7 people of 6 images each."""
    train, test = trials(30, seed=1), trials(42, seed=2)
    off = Small(0)
    with torch.no_grad():
        off.high.bias += 0.3
    subjects = [
        Subject(network, seed, {"low": 1, "high": 2}, train, test, f"digest {seed}")
        for network, seed in ((Small(0), 5), (off, 8))
    ]
    return Sweep("joint", "noise", subjects, pd.Series(np.repeat(list("gbadcfe"), 6)), PLAN)


@pytest.fixture(scope="module")
def found(little: Sweep) -> dict[str, pd.DataFrame]:
    with deterministic_torch():
        return run_sweep(little, workers=1, report=lambda: None)


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert list(one) == list(other)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name], check_exact=True)


def test_jobs_and_what_their_lesions_are(little: Sweep) -> None:
    own = [
        LesionJob(layer, *rest)
        for layer in ("low", "high")
        for rest in (
            ("ranked", 0, "shape"),
            ("ranked", 0, "colour"),
            ("shuffled", 0, ""),
            ("shuffled", 1, ""),
            ("random", 0, ""),
        )
    ]
    assert [(subject.seed, job) for subject, job in little.jobs()] == [(seed, job) for seed in (5, 8) for job in own]
    assert list_lesions(little, LesionJob("low", "ranked", 0, "colour")) == [
        Lesion("ranked", 0, "colour", 0.0),
        Lesion("ranked", 0, "colour", 0.2),
        Lesion("ranked", 0, "colour", 0.5),
        Lesion("keep", 0, "colour", 0.2),
        Lesion("keep", 0, "colour", 0.5),
    ]
    assert list_lesions(little, LesionJob("low", "shuffled", 1)) == [
        Lesion("shuffled", 1, task, fraction) for task in ("shape", "colour") for fraction in (0.2, 0.5)
    ]
    assert list_lesions(little, LesionJob("high", "random")) == [
        Lesion(condition, draw, "", fraction)
        for condition in ("random", "keep")
        for draw in (0, 1, 2, 3)
        for fraction in (0.2, 0.5)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_is_no_matter(little: Sweep, found: dict[str, pd.DataFrame], workers: int) -> None:
    reported: list[int] = []
    same(run_sweep(little, workers=workers, report=lambda: reported.append(1)), found)
    assert len(reported) == JOBS == len(little.jobs())
    assert list(found) == ["lesion_ranking", "lesions", "lesion_classes", "dissociation", "segregation"]


def test_screening_and_one_pass_are_said(little: Sweep, found: dict[str, pd.DataFrame]) -> None:
    assert set(found["lesion_ranking"]["mode"]) == {"exact"}
    assert set(found["lesion_ranking"]["procedure"]) == {"greedy"}
    plan = PLAN.model_copy(update={"mode": "screening", "greedy_p": 0.0})
    table = run_sweep(replace(little, plan=plan), workers=1, report=lambda: None)["lesion_ranking"]
    assert (
        set(table["mode"]) == {"screening"} and set(table["procedure"]) == {"one-pass"} and set(table["round"]) == {0}
    )


def right(network: nn.Module, layer: str, test: LabelledImages, silent: list[int]) -> dict[str, np.ndarray]:
    """Of the images whose class is known, those answered right in one forward pass with silent units."""
    mask = torch.ones(UNITS[layer]).index_fill(0, torch.tensor(silent, dtype=torch.int64), 0)[:, None, None]
    handle = network.get_submodule(f"{layer}_relu").register_forward_hook(lambda module, inputs, output: output * mask)
    with torch.no_grad():
        answers = network(test.images(np.arange(len(test))))
    handle.remove()
    return {task: (answers[task].argmax(dim=1).numpy() == own)[own >= 0] for task, own in test.classes.items()}


def test_random_units_are_kept_as_well(little: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are silenced in the row of the same draw."""
    seen: list[np.ndarray] = []
    original = sweeping.mark_correct_under_lesions

    def spy(place: object, test: LabelledImages, silent: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(silent)
        return original(place, test, silent)

    monkeypatch.setattr(sweeping, "mark_correct_under_lesions", spy)
    run_sweep(
        replace(little, subjects=[replace(little.subjects[0], layers={"low": 1})]), workers=1, report=lambda: None
    )
    (whole, *masks) = seen[0]  # of the random units, which come first
    assert not whole.any()
    np.testing.assert_array_equal(masks[: len(masks) // 2], ~np.array(masks[len(masks) // 2 :]))
    assert [mask.sum() for mask in masks[:4]] == [1, 3, 1, 3]


def chance(classes: np.ndarray) -> float:
    """What the best constant answer reaches."""
    known = classes[classes >= 0].tolist()
    return max(known.count(answer) for answer in set(known)) / len(known)


@pytest.mark.parametrize("condition", ["ranked", "keep", "shuffled"])
def test_accuracies_and_drops_are_those_of_forward_passes(
    little: Sweep, found: dict[str, pd.DataFrame], condition: str
) -> None:
    rows, orders = found["lesions"].query("condition == @condition and ranked_by != ''"), found["lesion_ranking"]
    fractions = 3 if condition == "ranked" else 2
    assert len(rows) == 2 * 2 * fractions * 2 * 2 * (2 if condition == "shuffled" else 1)
    networks, drops = {subject.seed: subject for subject in little.subjects}, []
    for row in rows.to_dict("records"):
        subject, layer = networks[row["seed"]], row["layer"]
        chosen_by = {name: row[name] for name in ("seed", "layer", "draw", "ranked_by")}
        chosen_by["condition"] = "shuffled" if condition == "shuffled" else "ranked"
        order = orders[(orders[list(chosen_by)] == pd.Series(chosen_by)).all(axis=1)].sort_values("rank")["unit"]
        assert sorted(order) == list(range(UNITS[layer]))
        number = {0.0: 0, 0.2: 1, 0.5: 3}[row["fraction"]]  # of 5 units, and of 6
        silent = order[number:] if condition == "keep" else order[:number]
        whole, lesioned = (
            right(subject.network, layer, subject.test, units)[row["tested_on"]].mean()
            for units in ([], silent.tolist())
        )
        classes = subject.test.classes[row["tested_on"]]
        assert (row["units"], row["silenced"], row["n"]) == (len(order), len(silent), (classes >= 0).sum())
        assert row["chance"] == pytest.approx(chance(classes), abs=1e-12) and row["accuracy"] == lesioned
        assert row["drop"] == pytest.approx((whole - lesioned) / (whole - chance(classes)), abs=1e-8)
        assert row["drop"] == 0 or row["fraction"] > 0
        assert row["reason"] == "" and row["depth"] == {"low": 1, "high": 2}[layer]
        drops.append(row["drop"])
    assert len(set(drops)) > 8 and max(drops) > 0.3


def test_recalls_are_those_of_forward_passes(little: Sweep, found: dict[str, pd.DataFrame]) -> None:
    """Of every class that occurs, at every share; and classes explain what they do in `lesions`."""
    networks = {subject.seed: subject for subject in little.subjects}
    orders = found["lesion_ranking"].query("condition == 'ranked'").sort_values("rank")
    where = ["seed", "layer", "ranked_by", "fraction", "tested_on"]
    groups = found["lesion_classes"].groupby(where)
    assert len(groups) == 2 * 2 * 2 * 3 * 2
    told = found["lesions"].query("condition == 'ranked'").set_index(where)
    for (seed, layer, ranked_by, fraction, tested_on), rows in groups:
        order = orders.query("seed == @seed and layer == @layer and ranked_by == @ranked_by")["unit"]
        silent = order[: {0.0: 0, 0.2: 1, 0.5: 3}[fraction]].tolist()
        subject = networks[seed]
        classes = subject.test.classes[tested_on]
        answered, known = right(subject.network, layer, subject.test, silent)[tested_on], classes[classes >= 0]
        by_class = {own: answered[known == own] for own in np.unique(known)}
        assert rows["class"].tolist() == list(by_class) and rows["n"].tolist() == [*map(len, by_class.values())]
        assert rows["recall"].tolist() == pytest.approx([own.mean() for own in by_class.values()], abs=1e-12)
        row = told.loc[(seed, layer, ranked_by, fraction, tested_on)]
        assert np.average(rows["recall"], weights=rows["n"]) == pytest.approx(row["accuracy"], abs=1e-12)
        squares = sum(((own - own.mean()) ** 2).sum() for own in by_class.values())
        unexplained = squares / (len(known) - len(by_class)) / answered.var(ddof=1)
        assert row["between_classes"] == pytest.approx(1 - unexplained, abs=1e-9)


def test_chance_of_uneven_classes_and_a_network_below_it(little: Sweep) -> None:
    first = little.subjects[0]
    shape = np.array([2] * 20 + [-1] * 2 + [0] * 12 + [1] * 8)  # 20 of 40
    test = LabelledImages(first.test.images, {"shape": shape, "colour": first.test.classes["colour"]})
    with torch.no_grad():
        answers = first.network(test.images(np.arange(42)))["shape"].argmax(dim=1).numpy()
    assert (answers == shape).sum() <= 20
    table = run_sweep(replace(little, subjects=[replace(first, test=test)]), workers=1, report=lambda: None)["lesions"]
    own = table[table["tested_on"] == "shape"]
    assert set(own["chance"]) == {0.5} and set(own["n"]) == {40} and own["drop"].isna().all()
    assert set(own["reason"]) == {"the whole network is not above chance on shape"}
    assert table[table["tested_on"] == "colour"]["drop"].notna().all()


def test_random_units_are_ranked_by_nothing_and_drawn_independently(found: dict[str, pd.DataFrame]) -> None:
    rows = found["lesions"].query("condition == 'random'")
    assert set(rows["ranked_by"]) == {""} and sorted(set(rows["draw"])) == [0, 1, 2, 3]
    assert sorted(set(zip(rows["units"], rows["fraction"], rows["silenced"], strict=True))) == [
        (5, 0.2, 1),
        (5, 0.5, 3),
        (6, 0.2, 1),
        (6, 0.5, 3),
    ]
    assert "random" not in set(found["lesion_ranking"]["condition"])
    kept = found["lesions"].query("condition == 'keep' and ranked_by == ''")
    place = ["seed", "layer", "draw", "fraction", "tested_on"]
    both = rows.merge(kept, on=place, suffixes=("", "_kept"))
    assert len(both) == len(rows) == len(kept) and (both["silenced"] + both["silenced_kept"] == both["units"]).all()
    assert (both["accuracy"] != both["accuracy_kept"]).mean() > 0.4
    per_draw = rows.query("fraction == 0.5 and tested_on == 'shape'").pivot(
        index=["seed", "layer"], columns="draw", values="accuracy"
    )
    assert (per_draw.nunique(axis=1) > 1).any()
    index = found["segregation"].query("condition == 'random' and quantity == 'index'")
    assert len(index) == 4 and (index["number"].abs() > 1e-6).any()


def test_random_draws_serve_in_pairs(little: Sweep) -> None:
    """Differences from the rows of single draws, where every person has as many images as all others."""
    images, classes = little.subjects[0].test.images, little.subjects[0].test.classes
    known = LabelledImages(images, {task: np.abs(own) for task, own in classes.items()})
    subjects = [replace(own, test=known) for own in little.subjects]
    tables = run_sweep(replace(little, subjects=subjects), workers=1, report=lambda: None)
    drops = (
        tables["lesions"]
        .set_index(["condition", "layer", "fraction", "seed", "draw", "ranked_by", "tested_on"])["drop"]
        .sort_index()
    )
    for row in tables["segregation"].query("quantity != 'index'").to_dict("records"):
        condition, own = row["condition"], row["quantity"]
        other = {"shape": "colour", "colour": "shape"}[own]
        draws = {"ranked": [0], "shuffled": [0, 1], "random": [1, 3] if own == "colour" else [0, 2]}[condition]
        by = "" if condition == "random" else own
        where = [drops[condition, row["layer"], row["fraction"], seed, draw, by] for seed in (5, 8) for draw in draws]
        wanted = np.mean([drop[own] - drop[other] for drop in where])
        assert row["number"] == pytest.approx(wanted, abs=1e-8), row


def test_layers_are_compared_by_the_same_people_and_mixtures(little: Sweep) -> None:
    """Here they are one layer by two names, ranked on all images there are, so that chance alone could part them."""
    subjects = [replace(own, layers={"high": 1, "high_relu": 1}) for own in little.subjects]
    plan = PLAN.model_copy(update={"images": 30})
    tables = run_sweep(replace(little, subjects=subjects, plan=plan), workers=1, report=lambda: None)
    for name in ("lesions", "dissociation", "segregation"):
        table = tables[name]
        if name != "dissociation":
            table = table[table["condition"] != "random"]
        if name == "lesions":
            table = table[table["ranked_by"] != ""]
        one, other = (table[table["layer"] == layer].drop(columns="layer") for layer in ("high", "high_relu"))
        pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), check_exact=True)


def test_people_who_count_alike_have_a_chance_of_their_own(little: Sweep) -> None:
    """Many images of one person: a constant answer is right for all of hers, and for nobody else's."""
    people = pd.Series(["a"] * 40 + ["b", "c"])
    classes = np.array([1] * 40 + [0, 0])
    known = LabelledImages(little.subjects[0].test.images, {"shape": classes, "colour": 1 - classes})
    subjects = [replace(own, test=known) for own in little.subjects]
    with torch.no_grad():  # always class 1
        for own in subjects:
            network = Small(own.seed)
            network.shape.weight.zero_()
            network.shape.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
            subjects[subjects.index(own)] = replace(own, network=network)
    tables = run_sweep(replace(little, subjects=subjects, people=people), workers=1, report=lambda: None)
    assert set(tables["lesions"].query("tested_on == 'shape'")["chance"]) == {40 / 42}
    # of three people one is answered right, and saying class 0 would serve two
    told = tables["dissociation"].query("quantity == 'shape' and resample == -1")
    assert told["number"].isna().all()
    assert set(told["reason"]) == {"the whole network is not above chance on shape"}


def test_refusals(little: Sweep) -> None:
    first, second = little.subjects
    fewer = replace(second, layers={"low": 1})
    turned = LabelledImages(second.train.images, dict(reversed(second.train.classes.items())))
    share = "networks of one sweep share tasks and layers; got tasks {} and layers {}."
    for subjects, tasks, layers in (
        ([first, fewer], "[('shape', 'colour')]", "[(('low', 1),), (('low', 1), ('high', 2))]"),
        (
            [first, replace(second, train=turned)],
            "[('colour', 'shape'), ('shape', 'colour')]",
            "[(('low', 1), ('high', 2))]",
        ),
        ([], "[]", "[]"),
    ):
        with pytest.raises(StudyError) as caught:
            replace(little, subjects=subjects)
        assert str(caught.value) == share.format(tasks, layers)
    with pytest.raises(StudyError) as caught:
        replace(little, subjects=[first, replace(second, seed=first.seed)])
    assert str(caught.value) == (
        f"networks of one sweep are told apart by their seeds; got [{first.seed}, {first.seed}]."
    )
    for change in ({"people": little.people[:41]}, {"subjects": [first, replace(second, test=trials(41, seed=2))]}):
        with pytest.raises(StudyError) as caught:
            replace(little, **change)
        assert str(caught.value) == (
            "networks of one sweep are tested on the same images of known people, got [41, 42]."
        )
