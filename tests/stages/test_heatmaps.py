from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.data.batches import Preset, apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.stages import heatmaps
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, scale_maps
from facespec.study.params import Heatmaps, Params, read_params
from facespec.study.paths import Paths
from facespec.study.tables import HEATMAPS
from facespec.study.vocabulary import PAIRS


def other(paths: Paths, **changed: object) -> Params:
    """The study's parameters with another `heatmaps` block and one seed."""
    params = read_params(paths.params)
    block = Heatmaps.model_validate({**params.heatmaps.model_dump(), **changed})
    return params.model_copy(update={"heatmaps": block, "seeds": [5]})


def test_every_frontal_probe_image_has_a_map_of_every_pair_and_seed(explained_study: Path) -> None:
    paths = Paths(explained_study)
    made = MapSet.open(paths.heatmaps)
    probe = FaceSet.open(paths.faces("probe"))
    frontal = probe.labels[probe.labels["view"] == "straight"].reset_index(drop=True)
    pd.testing.assert_frame_equal(made.labels, frontal)
    assert (made.seeds, made.size, made.source, made.head.target) == ((5, 6), (32, 32), "embedded faces", "labelled")
    assert set(made.head.layers.values()) == {"trunk.relu2"} and len(made.head.layers) == 4
    for network, task in PAIRS:
        for seed in made.seeds:
            maps = made.maps(network, task, seed)
            assert maps.shape == (42, 16, 16) and (maps >= 0).all() and np.isfinite(maps).all()
    rows = np.flatnonzero(probe.labels["view"] == "straight")
    np.testing.assert_allclose(made.mean_face, probe.images(rows).mean(axis=0), rtol=1e-12)


def test_maps_are_the_class_activation_maps_of_the_true_class(explained_study: Path) -> None:
    """By the closed form, one image at a time: the head's weights of the class on the last responses, over h w."""
    paths = Paths(explained_study)
    made = MapSet.open(paths.heatmaps)
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint("finetune", "joint", 6))
    network, probe = checkpoint.network, FaceSet.open(paths.faces("probe"))
    where = pd.Index(probe.labels["stimulus"])
    for row in (0, 17, 41):
        image = probe.images(np.array([where.get_loc(made.labels["stimulus"][row])]))
        with torch.no_grad():
            responses = network.trunk[:-1](apply_preset(image, Preset(**checkpoint.preset), None))[0]
        for task in ("expression", "identity"):
            code = checkpoint.classes[task].index(made.labels[task][row])
            closed_form = torch.einsum("u,uhw->hw", network.heads[task].weight[code], responses).relu() / 16**2
            np.testing.assert_allclose(made.maps("joint", task, 6)[row], closed_form.detach(), rtol=2e-4, atol=1e-7)


def test_the_table_holds_means_and_spreads_of_raw_and_scaled_maps(explained_study: Path) -> None:
    paths = Paths(explained_study)
    made, table = MapSet.open(paths.heatmaps), HEATMAPS.read(paths.table("heatmaps"))
    assert len(table) == 4 * 2 * 2 * 8 * 16 * 16  # pairs, seeds, scales, all and seven expressions, cells
    raw = made.maps("joint", "identity", 5).astype(float)
    sad = made.labels["expression"] == "sad"
    blank = (raw.max(axis=(1, 2)) == raw.min(axis=(1, 2))).sum()
    for scale, maps in (("raw", raw), ("scaled", scale_maps(raw))):
        for name, chosen in (("all", np.ones(42, bool)), ("sad", sad.to_numpy())):
            rows = table[
                (table["trained_on"] == "joint")
                & (table["tested_on"] == "identity")
                & (table["seed"] == 5)
                & (table["scale"] == scale)
                & (table["expression"] == name)
            ]
            ordered = rows.sort_values(["row", "column"])
            seen = maps[chosen][~np.isnan(maps[chosen]).any(axis=(1, 2))]
            assert set(ordered["n"]) == {len(seen)}
            np.testing.assert_allclose(ordered["mean"].to_numpy().reshape(16, 16), seen.mean(axis=0), atol=1e-12)
            np.testing.assert_allclose(ordered["sd"].to_numpy().reshape(16, 16), seen.std(axis=0), atol=1e-9)
            if name == "all":
                assert set(ordered["blank"]) == {blank}


def test_the_same_bytes_twice(explained_study: Path, explained: Paths) -> None:
    heatmaps.run(explained, read_params(explained.params), device="cpu")
    first = {path.name: path.read_bytes() for path in Paths(explained_study).heatmaps.iterdir()}
    assert {path.name: path.read_bytes() for path in explained.heatmaps.iterdir()} == first
    assert len(first) == 8 + 3


def test_another_layer_view_and_target(explained: Paths) -> None:
    heatmaps.run(explained, other(explained, layer="trunk.pool1", view="all", target="predicted"), device="cpu")
    made = MapSet.open(explained.heatmaps)
    assert (made.head.n, made.head.target, set(made.head.layers.values())) == (210, "predicted", {"trunk.pool1"})
    assert made.maps("expression", "expression", 5).shape == (210, 16, 16)


def test_refusals(explained: Paths, relabel: Callable[..., None]) -> None:
    before = {path.name: path.read_bytes() for path in explained.heatmaps.iterdir()}
    with pytest.raises(StudyError, match=r"no layer 'trunk\.relu3'"):
        heatmaps.run(explained, other(explained, layer="trunk.relu3"), device="cpu")
    labels = FaceSet.open(explained.faces("probe")).labels
    relabel(explained.faces("probe"), lambda table: table.replace({"view": {"straight": "half_left"}}))
    with pytest.raises(StudyError) as caught:
        heatmaps.run(explained, other(explained), device="cpu")
    assert str(caught.value) == (
        f"{explained.faces('probe')}: no image shows the straight view, so there is nothing to explain. Use probe "
        "faces with that view, or set heatmaps.view to all in params.yaml."
    )
    relabel(explained.faces("probe"), lambda table: labels.replace({"identity": {"M01": "Z01"}}))
    with pytest.raises(StudyError) as caught:
        heatmaps.run(explained, other(explained), device="cpu")
    assert str(caught.value) == (
        "no network was fitted to identity 'Z01': fine-tune again, or explain the class that is predicted "
        "(heatmaps.target: predicted in params.yaml)."
    )
    assert {path.name: path.read_bytes() for path in explained.heatmaps.iterdir()} == before  # finished work stays
