from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from facespec.analyses.similarity import compute_debiased_cka
from facespec.data.batches import Preset, apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models import checkpoints
from facespec.models.networks import build_network
from facespec.stages import depth
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock, Params, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator, integer_seed
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNIT_CLASSES, UNIT_SHARES, UNITS

SCHEMAS = {
    "depth_units": UNITS,
    "depth_classes": UNIT_CLASSES,
    "depth_shares": UNIT_SHARES,
    "depth_decoding": LAYER_DECODING,
    "similarity": SIMILARITY,
}
EVERYONE = ("expression", "identity", "joint", "untrained")


@pytest.fixture(scope="module")
def finished(explained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The tables of that study beside links to what they are made of; not to be written to."""
    paths = Paths(tmp_path_factory.mktemp("depth"))
    for name in ("data", "checkpoints", "params.yaml"):
        (paths.root / name).symlink_to(explained_study / name)
    depth.run(paths, read_params(paths.params), device="cpu")
    return paths


def tables(paths: Paths) -> dict[str, pd.DataFrame]:
    return {name: schema.read(paths.table(name)) for name, schema in SCHEMAS.items()}


def written(paths: Paths) -> dict[str, bytes]:
    return {name: paths.table(name).read_bytes() for name in SCHEMAS}


def changed(params: Params, block: str, **values: object) -> Params:
    return params.model_copy(update={block: getattr(params, block).model_copy(update=values)})


def responses_of(paths: Paths, name: str, seed: int) -> dict[str, np.ndarray]:
    """By hand, all frontal images at once: the trunk's modules one after the other."""
    checkpoint = checkpoints.load_checkpoint(
        paths.checkpoint("finetune", "joint" if name == "untrained" else name, seed)
    )
    network, faces = checkpoint.network, FaceSet.open(paths.faces("probe"))
    if name == "untrained":
        draws = torch.Generator().manual_seed(integer_seed(seed, "train", "weights"))
        network = build_network(network.block, network.classes, channels=1, generator=draws).eval()
    shown = apply_preset(
        faces.images(np.flatnonzero(faces.labels["view"] == "straight")), Preset(**checkpoint.preset), None
    )
    found = {}
    with torch.no_grad():
        for module_name, module in network.trunk.named_children():
            shown = module(shown)
            if module_name.startswith("relu"):
                found[f"trunk.{module_name}"] = shown.mean(dim=(2, 3)).numpy()
    return found


def test_every_layer_of_every_network_and_of_none(finished: Paths) -> None:
    found = tables(finished)
    units, classes, shares, decoding, _ = found.values()
    places = [(name, seed, f"trunk.relu{d}", d) for seed in (5, 6) for name in EVERYONE for d in (1, 2)]
    key = ["trained_on", "seed", "layer", "depth"]
    for table in (units, classes, shares, decoding):
        assert set(table["source"]) == {"embedded faces"}
        assert sorted(set(table[key].itertuples(index=False, name=None))) == sorted(places)
    assert len(units) == 2 * len(classes) == 2 * 8 * (3 + 5)  # channels [3, 5]
    assert len(shares) == 16 * 6 and len(decoding) == 16 * 2
    assert set(units["people"]) == {3}
    assert sorted(set(units["unit"][units["depth"] == 2])) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "seed"), [("identity", 6), ("untrained", 5)])
def test_units_are_those_of_the_frontal_images(finished: Paths, name: str, seed: int) -> None:
    """Eta squared from group means of responses that were computed module by module."""
    units, labels = tables(finished)["depth_units"], FaceSet.open(finished.faces("probe")).labels
    labels = labels[labels["view"] == "straight"].reset_index(drop=True)
    for layer, responses in responses_of(finished, name, seed).items():
        own = units[(units["trained_on"] == name) & (units["seed"] == seed) & (units["layer"] == layer)]
        for factor in ("expression", "identity"):
            table = pd.DataFrame(responses.astype(float))
            means = table.groupby(labels[factor].to_numpy()).transform("mean")
            answered = (table.std(ddof=0) > 1e-6 * table.max()).to_numpy()
            eta = (means.var(ddof=0) / table.var(ddof=0).where(answered)).to_numpy()
            np.testing.assert_allclose(own[own["factor"] == factor]["eta"], eta, rtol=2e-3, atol=1e-5)


def test_networks_of_a_seed_share_what_they_were_before_training(finished: Paths) -> None:
    """The untrained trunk is what the single-task networks began with, too."""
    one = responses_of(finished, "untrained", 5)
    block = read_params(finished.params).network
    draws = torch.Generator().manual_seed(integer_seed(5, "train", "weights"))
    single = build_network(NetworkBlock(**block.model_dump()), {"identity": 4}, channels=1, generator=draws).eval()
    faces = FaceSet.open(finished.faces("probe"))
    preset = checkpoints.load_checkpoint(finished.checkpoint("finetune", "identity", 5)).preset
    shown = apply_preset(faces.images(np.flatnonzero(faces.labels["view"] == "straight")), Preset(**preset), None)
    with torch.no_grad():
        np.testing.assert_allclose(single.trunk[:3](shown).mean(dim=(2, 3)), one["trunk.relu1"], atol=1e-6)


@pytest.mark.parametrize("name", ["joint", "untrained"])
def test_decoders_see_frontal_images_of_both_sides_of_the_split(finished: Paths, name: str) -> None:
    params, faces = read_params(finished.params), FaceSet.open(finished.faces("probe"))
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    rows = np.flatnonzero(faces.labels["view"] == "straight")
    fitted, tested = np.isin(rows, fit), np.isin(rows, test)
    assert fitted.sum() + tested.sum() == 42 and tested.sum() > 0
    decoding = tables(finished)["depth_decoding"]
    assert set(decoding["n"]) == {tested.sum()}
    for layer, responses in responses_of(finished, name, 6).items():
        for task, chance in (("expression", 1 / 7), ("identity", 1 / 3)):
            names = faces.labels[task].iloc[rows].to_numpy()
            scaler = StandardScaler().fit(responses[fitted].astype(float))
            decoder = LogisticRegression(C=params.decoding.penalty, max_iter=params.decoding.iterations)
            decoder.fit(scaler.transform(responses[fitted].astype(float)), names[fitted])
            right = decoder.score(scaler.transform(responses[tested].astype(float)), names[tested])
            (row,) = decoding[
                (decoding["trained_on"] == name)
                & (decoding["seed"] == 6)
                & (decoding["layer"] == layer)
                & (decoding["tested_on"] == task)
            ].to_dict("records")
            assert row["chance"] == pytest.approx(chance)
            # by another road the last bits differ, and with them a close call, of an image at most
            assert abs(row["accuracy"] - right) <= 1 / tested.sum() + 1e-9


def test_networks_are_compared_within_seeds_and_seeds_within_networks(finished: Paths) -> None:
    table = tables(finished)["similarity"]
    key = ["first_trained_on", "first_seed", "second_trained_on", "second_seed"]
    pairs = [("expression", "identity"), ("expression", "joint"), ("identity", "joint")]
    expected = [(first, seed, second, seed) for seed in (5, 6) for first, second in pairs]
    expected += [(name, 5, name, 6) for name in ("expression", "identity", "joint")]
    assert sorted(set(table[key].itertuples(index=False, name=None))) == sorted(expected)
    assert len(table) == 9 * 2 * 2 and set(table["n"]) == {42}
    one, other = responses_of(finished, "expression", 6), responses_of(finished, "joint", 6)
    for layer in one:
        row = table.query(
            "first_trained_on == 'expression' and second_trained_on == 'joint' and first_seed == 6 and "
            "layer == @layer and estimator == 'debiased'"
        )
        assert row["cka"].item() == pytest.approx(compute_debiased_cka(one[layer], other[layer]), abs=1e-3)


def test_shares_count_the_classes(finished: Paths) -> None:
    found = tables(finished)
    classes, shares = found["depth_classes"], found["depth_shares"]
    own = classes[(classes["trained_on"] == "joint") & (classes["seed"] == 5) & (classes["depth"] == 2)]
    for name in ("expression", "identity"):
        (row,) = shares[
            (shares["trained_on"] == "joint")
            & (shares["seed"] == 5)
            & (shares["depth"] == 2)
            & (shares["kind"] == "specific")
            & (shares["name"] == name)
        ].to_dict("records")
        assert row["count"] == (own["specific"] == name).sum() and row["units"] == (own["class"] != "").sum()


def test_the_same_bytes_twice(finished: Paths, explained: Paths) -> None:
    depth.run(explained, read_params(explained.params), device="cpu")
    assert written(explained) == written(finished)


def test_every_parameter_counts(finished: Paths, explained: Paths) -> None:
    params, before = read_params(explained.params), written(finished)
    for name, values, touched in (
        ("depth", {"seed": 9}, {"depth_units"}),
        ("depth", {"permutations": 150}, {"depth_units"}),
        ("depth", {"rate": 0.9}, {"depth_classes", "depth_shares"}),
        ("depth", {"selectivity": 1.0}, {"depth_classes", "depth_shares"}),
        ("decoding", {"penalty": 1e-4}, {"depth_decoding"}),
        ("split", {"seed": 3}, {"depth_decoding"}),
    ):
        depth.run(explained, changed(params, name, **values), device="cpu")
        after = written(explained)
        assert touched <= {table for table in before if after[table] != before[table]}, (name, values)


def test_layers_of_a_branch_are_compared_with_those_of_the_other_branch() -> None:
    arrays = [np.full((4, 1), number) for number in range(6)]
    single = depth.NetworkResponses(
        "expression",
        1,
        {"trunk.relu1": arrays[0], "branches.expression.relu2": arrays[1]},
        {"trunk.relu1": 1, "branches.expression.relu2": 2},
    )
    other = depth.NetworkResponses(
        "identity",
        1,
        {"trunk.relu1": arrays[2], "branches.identity.relu2": arrays[3]},
        {"trunk.relu1": 1, "branches.identity.relu2": 2},
    )
    joint = depth.NetworkResponses("joint", 1, single.responses | other.responses, single.depths | other.depths)
    paired = depth._paired(single, other)
    assert list(paired) == list(single.responses)
    assert paired["trunk.relu1"] is arrays[2] and paired["branches.expression.relu2"] is arrays[3]
    assert depth._paired(single, joint)["branches.expression.relu2"] is arrays[1]
    assert depth._paired(other, joint)["branches.identity.relu2"] is arrays[3]


def test_refusals(explained: Paths, relabel: Callable[..., None]) -> None:
    params = read_params(explained.params)
    before = FaceSet.open(explained.faces("probe")).labels
    relabel(explained.faces("probe"), lambda table: table.replace({"view": {"straight": "half_left"}}))
    with pytest.raises(StudyError) as caught:
        depth.run(explained, params, device="cpu")
    assert str(caught.value) == (
        f"{explained.faces('probe')}: no image shows the straight view, which the analyses by depth look at. Use probe "
        "faces with that view."
    )
    relabel(
        explained.faces("probe"),
        lambda table: before.assign(session=before["session"].mask(before["view"] == "straight", "B")),
    )
    with pytest.raises(StudyError) as caught:
        depth.run(explained, changed(params, "split", hold_out="session", session="A"), device="cpu")
    assert str(caught.value) == (
        f"{explained.faces('probe')}: of 42 frontal images, 42 are to be fitted and 0 tested; at least one of each is "
        "needed. Choose another split.seed or split.hold_out in params.yaml."
    )
    assert not explained.table("depth_units").exists()
