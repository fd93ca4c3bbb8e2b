from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facespec.analyses.similarity import compute_debiased_cka
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models import checkpoints
from facespec.models.networks import build_network
from facespec.stages import depth
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator, integer_seed
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNIT_CLASSES, UNIT_SHARES, UNITS
from toys import change_params, seeded

SCHEMAS = {
    "depth_units": UNITS,
    "depth_classes": UNIT_CLASSES,
    "depth_shares": UNIT_SHARES,
    "depth_decoding": LAYER_DECODING,
    "similarity": SIMILARITY,
}
NETWORKS = ("expression", "identity", "joint", "untrained")


@pytest.fixture(scope="module")
def tables(analysed: Paths) -> dict[str, pd.DataFrame]:
    return {name: schema.read(analysed.table(name)) for name, schema in SCHEMAS.items()}


@pytest.fixture(scope="module")
def labels(analysed: Paths) -> pd.DataFrame:
    """The labels of the frontal probe images, indexed by their rows in the set of faces."""
    table = FaceSet.open(analysed.faces("probe")).labels
    return table[table["view"] == "straight"]


def read_outputs(paths: Paths) -> dict[str, bytes]:
    return {name: paths.table(name).read_bytes() for name in SCHEMAS}


def record_by_hand(paths: Paths, name: str, seed: int) -> dict[str, np.ndarray]:
    """Mean responses to all frontal images at once: the trunk's modules one after the other."""
    network_name = "identity" if name == "untrained" else name  # all networks of a seed begin with the same trunk
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint("finetune", network_name, seed))
    network, faces = checkpoint.network, FaceSet.open(paths.faces("probe"))
    if name == "untrained":
        weights = seeded(integer_seed(seed, "train", "weights"))
        network = build_network(network.block, {"identity": 4}, channels=1, generator=weights).eval()
    frontal = np.flatnonzero(faces.labels["view"] == "straight")
    maps = apply_preset(faces.images(frontal), checkpoint.preset, None)
    responses = {}
    with torch.no_grad():
        for module_name, module in network.trunk.named_children():
            maps = module(maps)
            if module_name.startswith("relu"):
                responses[f"trunk.{module_name}"] = maps.mean(dim=(2, 3)).numpy()
    return responses


def test_every_layer_of_every_network_has_its_rows(tables: dict[str, pd.DataFrame]) -> None:
    units, classes, shares, decoding, _ = tables.values()
    layers = [(name, seed, f"trunk.relu{d}", d) for seed in (5, 6) for name in NETWORKS for d in (1, 2)]
    for table in (units, classes, shares, decoding):
        assert set(table["source"]) == {"embedded faces"}
        keys = table[["trained_on", "seed", "layer", "depth"]]
        assert sorted(set(keys.itertuples(index=False, name=None))) == sorted(layers)
    assert len(units) == 2 * len(classes) == 2 * 8 * (3 + 5)  # channels [3, 5]
    assert len(shares) == 16 * 6 and len(decoding) == 16 * 2
    assert set(units["people"]) == {3}
    assert sorted(set(units["unit"][units["depth"] == 2])) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "seed"), [("identity", 6), ("untrained", 5)])
def test_unit_effects_are_those_of_the_frontal_images(
    analysed: Paths, tables: dict[str, pd.DataFrame], labels: pd.DataFrame, name: str, seed: int
) -> None:
    """Eta squared from group means of responses that were computed module by module."""
    effects = tables["depth_units"].set_index(["trained_on", "seed", "layer", "factor"]).sort_index()
    for layer, responses in record_by_hand(analysed, name, seed).items():
        table = pd.DataFrame(responses.astype(float))
        varying = table.std(ddof=0) > 1e-6 * table.max()
        for factor in ("expression", "identity"):
            means = table.groupby(labels[factor].to_numpy()).transform("mean")
            eta = means.var(ddof=0) / table.var(ddof=0).where(varying)
            rows = effects.loc[(name, seed, layer, factor)].sort_values("unit")
            np.testing.assert_allclose(rows["eta"], eta, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["joint", "untrained"])
def test_decoders_are_fitted_and_tested_on_frontal_images_of_the_split(
    analysed: Paths, params: Params, tables: dict[str, pd.DataFrame], labels: pd.DataFrame, name: str
) -> None:
    probe = FaceSet.open(analysed.faces("probe")).labels
    fit, test = (
        labels.index.isin(rows) for rows in hold_out(probe, params.split, generator(params.split.seed, "split"))
    )
    assert fit.sum() + test.sum() == 42 and test.sum() > 0
    decoding = tables["depth_decoding"].set_index(["trained_on", "seed", "layer", "tested_on"])
    assert set(decoding["n"]) == {test.sum()}
    for layer, responses in record_by_hand(analysed, name, 6).items():
        for task in ("expression", "identity"):
            classes = labels[task].to_numpy()
            chance = max(Counter(classes[test]).values()) / test.sum()  # of the best constant answer
            regression = LogisticRegression(C=params.decoding.penalty, max_iter=params.decoding.iterations)
            decoder = make_pipeline(StandardScaler(), regression).fit(responses[fit].astype(float), classes[fit])
            accuracy = decoder.score(responses[test].astype(float), classes[test])
            row = decoding.loc[(name, 6, layer, task)]
            assert row["chance"] == pytest.approx(chance)
            # by another road the last bits differ, and with them a close call, of an image at most
            assert abs(row["accuracy"] - accuracy) <= 1 / test.sum() + 1e-9


def test_networks_are_compared_within_seeds_and_seeds_within_networks(
    analysed: Paths, tables: dict[str, pd.DataFrame]
) -> None:
    table = tables["similarity"]
    keys = table[["first_trained_on", "first_seed", "second_trained_on", "second_seed"]]
    pairs = [("expression", "identity"), ("expression", "joint"), ("identity", "joint")]
    expected = [(first, seed, second, seed) for seed in (5, 6) for first, second in pairs]
    expected += [(name, 5, name, 6) for name in ("expression", "identity", "joint")]
    assert sorted(set(keys.itertuples(index=False, name=None))) == sorted(expected)
    assert len(table) == 9 * 2 * 2 and set(table["n"]) == {42}
    first, second = (record_by_hand(analysed, name, 6) for name in ("expression", "joint"))
    pair = table.query("first_trained_on == 'expression' and second_trained_on == 'joint' and first_seed == 6")
    cka = pair[pair["estimator"] == "debiased"].set_index("layer")["cka"]
    for layer in first:
        assert cka[layer] == pytest.approx(compute_debiased_cka(first[layer], second[layer]), abs=1e-3)


def test_every_parameter_reaches_its_tables(analysed_copy: Paths, params: Params) -> None:
    before = read_outputs(analysed_copy)
    for block, values, changing in (
        ("depth", {"seed": 9}, {"depth_units"}),
        ("depth", {"permutations": 150}, {"depth_units"}),
        ("depth", {"rate": 0.9}, {"depth_classes", "depth_shares"}),
        ("depth", {"selectivity": 1.0}, {"depth_classes", "depth_shares"}),
        ("decoding", {"penalty": 1e-4}, {"depth_decoding"}),
        ("split", {"seed": 3}, {"depth_decoding"}),
    ):
        depth.run(analysed_copy, change_params(params, block, **values), device="cpu")
        after = read_outputs(analysed_copy)
        assert changing <= {name for name in before if after[name] != before[name]}, (block, values)


def test_layers_of_a_branch_are_compared_with_those_of_the_other_branch() -> None:
    def make(name: str, *numbers: int) -> depth.NetworkResponses:
        layers = dict(zip(("trunk.relu1", f"branches.{name}.relu2"), numbers, strict=True))
        responses = {layer: np.full((4, 1), number) for layer, number in layers.items()}
        return depth.NetworkResponses(name, 1, responses, dict(zip(layers, (1, 2), strict=True)))

    expression, identity = make("expression", 0, 1), make("identity", 2, 3)
    joint = depth.NetworkResponses(
        "joint", 1, expression.responses | identity.responses, expression.depths | identity.depths
    )
    for first, second, expected in (
        (expression, identity, {"trunk.relu1": 2, "branches.expression.relu2": 3}),
        (expression, joint, {"trunk.relu1": 2, "branches.expression.relu2": 1}),
        (identity, joint, {"trunk.relu1": 2, "branches.identity.relu2": 3}),
    ):
        matched = depth.match_layers(first, second)
        assert list(matched) == list(expected)
        assert {layer: responses[0, 0] for layer, responses in matched.items()} == expected


def test_faces_without_frontal_images_to_fit_and_test_are_refused(
    study_copy: Paths, params: Params, relabel: Callable[..., None]
) -> None:
    probe = study_copy.faces("probe")
    labels = FaceSet.open(probe).labels
    relabel(probe, lambda table: table.replace({"view": {"straight": "half_left"}}))
    with pytest.raises(StudyError, match=r"probe: no image shows the straight view.* Use probe faces with that view\."):
        depth.run(study_copy, params, device="cpu")
    relabel(probe, lambda _: labels.assign(session=labels["session"].mask(labels["view"] == "straight", "B")))
    with pytest.raises(StudyError, match=r"probe: of 42 frontal images, 42 .* 0 tested; .* Choose another split\.seed"):
        depth.run(study_copy, change_params(params, "split", hold_out="session", session="A"), device="cpu")
    assert not study_copy.table("depth_units").exists()
