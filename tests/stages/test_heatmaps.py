from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.stages import heatmaps
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, scale_maps
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.tables import HEATMAPS
from facespec.study.vocabulary import PAIRS
from toys import change_params, read_files


@pytest.fixture(scope="module")
def maps(fitted: Paths) -> MapSet:
    assert len(list(fitted.heatmaps.iterdir())) == 12 + 3
    return MapSet.open(fitted.heatmaps)


def test_every_frontal_probe_image_has_a_map_of_every_pair_and_seed(fitted: Paths, maps: MapSet) -> None:
    probe = FaceSet.open(fitted.faces("probe"))
    frontal = probe.labels[probe.labels["view"] == "straight"]
    pd.testing.assert_frame_equal(maps.labels, frontal.reset_index(drop=True))
    assert (maps.seeds, maps.size, maps.source, maps.header.target) == ((5, 6), (32, 32), "embedded faces", "labelled")
    assert set(maps.header.layers.values()) == {"trunk.relu2"} and len(maps.header.layers) == 6
    for network, task in PAIRS:
        for seed in maps.seeds:
            array = maps.maps(network, task, seed)
            assert array.shape == (42, 16, 16) and (array >= 0).all() and np.isfinite(array).all()
    np.testing.assert_allclose(maps.mean_face, probe.images(frontal.index.to_numpy()).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(("stage", "name"), [("finetune", "joint"), ("untrained", "untrained")])
def test_maps_are_the_class_activation_maps_of_the_true_class(
    fitted: Paths, maps: MapSet, stage: str, name: str
) -> None:
    """By the closed form, one image at a time: the head's weights of the class on the last responses, over h w."""
    checkpoint = checkpoints.load_checkpoint(fitted.checkpoint(stage, name, 6))
    network, probe = checkpoint.network, FaceSet.open(fitted.faces("probe"))
    for row in (0, 17, 41):
        image = probe.images(np.flatnonzero(probe.labels["stimulus"] == maps.labels["stimulus"][row]))
        with torch.no_grad():
            responses = network.trunk[:-1](apply_preset(image, checkpoint.preset, None))[0]
        for task in ("expression", "identity"):
            code = checkpoint.classes[task].index(maps.labels[task][row])
            closed_form = torch.einsum("u,uhw->hw", network.heads[task].weight[code], responses).relu() / 16**2
            expected = closed_form.detach().numpy()
            atol = max(1e-7, 1e-6 * expected.max())
            np.testing.assert_allclose(maps.maps(name, task, 6)[row], expected, rtol=2e-4, atol=atol)


def test_the_table_holds_means_and_spreads_of_raw_and_scaled_maps(fitted: Paths, maps: MapSet) -> None:
    table = HEATMAPS.read(fitted.table("heatmaps"))
    assert len(table) == 6 * 2 * 2 * 8 * 16 * 16  # pairs, seeds, scales, all and seven expressions, cells
    cells = table.query("trained_on == 'joint' and tested_on == 'identity' and seed == 5")
    cells = cells.set_index(["scale", "expression", "row", "column"]).sort_index()
    raw = maps.maps("joint", "identity", 5).astype(float)
    flat = raw.max(axis=(1, 2)) == raw.min(axis=(1, 2))
    sad = (maps.labels["expression"] == "sad").to_numpy()
    for scale, arrays in (("raw", raw), ("scaled", scale_maps(raw))):
        for name, mask in (("all", np.ones(42, bool)), ("sad", sad)):
            rows, chosen = cells.loc[(scale, name)], arrays[mask if scale == "raw" else mask & ~flat]
            assert set(rows["n"]) == {len(chosen)} and set(rows["blank"]) == {(mask & flat).sum()}
            np.testing.assert_allclose(rows["mean"].to_numpy().reshape(16, 16), chosen.mean(axis=0), atol=1e-12)
            np.testing.assert_allclose(rows["sd"].to_numpy().reshape(16, 16), chosen.std(axis=0), atol=1e-9)


def test_another_layer_view_and_target(explained: Paths, params: Params) -> None:
    changed = change_params(params, "heatmaps", layer="trunk.pool1", view="all", target="predicted")
    heatmaps.run(explained, changed.model_copy(update={"seeds": [5]}), device="cpu")
    maps = MapSet.open(explained.heatmaps)
    assert (maps.header.n, maps.header.target, set(maps.header.layers.values())) == (210, "predicted", {"trunk.pool1"})
    assert maps.maps("expression", "expression", 5).shape == (210, 16, 16)


def test_what_cannot_be_explained_is_refused_and_finished_work_stays(
    explained: Paths, params: Params, relabel: Callable[..., None]
) -> None:
    before, probe = read_files(explained.heatmaps), explained.faces("probe")
    labels = FaceSet.open(probe).labels
    with pytest.raises(StudyError, match=r"no layer 'trunk\.relu3'"):
        heatmaps.run(explained, change_params(params, "heatmaps", layer="trunk.relu3"), device="cpu")
    relabel(probe, lambda table: table.replace({"view": {"straight": "half_left"}}))
    with pytest.raises(StudyError, match=r"probe: no image shows the straight view.*or set heatmaps\.view to all"):
        heatmaps.run(explained, params, device="cpu")
    relabel(probe, lambda _: labels.replace({"identity": {"M01": "Z01"}}))
    with pytest.raises(StudyError, match=r"no network was fitted to identity 'Z01': fine-tune again.*: predicted"):
        heatmaps.run(explained, params, device="cpu")
    assert read_files(explained.heatmaps) == before
