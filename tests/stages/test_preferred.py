"""Every unit of every network has its picture and its face, and all responses are measured in the same way."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.analyses.preferred import Recipe, optimise_stimuli
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch
from facespec.models.networks import build_network
from facespec.responses.recording import record_responses
from facespec.stages import preferred as stage
from facespec.study.artefacts import read_document
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.preferred import HEADER_FILE, PreferredSet
from facespec.study.seeds import generator
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import Network
from toys import read_files, seeded

LAYERS = {"trunk.relu1": (1, 3), "trunk.relu2": (2, 5)}  # depth, units
NETWORKS = ("expression", "identity", "joint", "untrained")
KINDS = ("optimised", "start", "random", "image")


def read_outputs(paths: Paths) -> tuple[PreferredSet, pd.DataFrame]:
    return PreferredSet.open(paths.preferred), PREFERRED.read(paths.table("preferred"))


def run(paths: Paths, params: Params) -> tuple[PreferredSet, pd.DataFrame]:
    stage.run(paths, params, device="cpu")
    return read_outputs(paths)


@pytest.fixture(scope="module")
def outputs(analysed: Paths) -> tuple[PreferredSet, pd.DataFrame]:
    return read_outputs(analysed)


def record(paths: Paths, network: str, layer: str, images: np.ndarray, *, seed: int = 5) -> np.ndarray:
    """Maps (n, units, h, w) of images, uint8 as stored or float32 pictures: the network's own forward pass."""
    kind = "untrained" if network == "untrained" else "finetune"
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint(kind, network, seed))
    preset = checkpoint.preset
    if images.dtype == np.uint8:
        batch = apply_preset(images, preset, None)
    else:
        planes = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
        batch = (planes - preset.mean) / preset.std
    with record_responses(checkpoint.network, [layer]) as responses, torch.inference_mode():
        checkpoint.network(batch)
    return responses[layer].numpy()


def select(table: pd.DataFrame, network: str, layer: str, kind: str) -> pd.DataFrame:
    rows = table[(table["trained_on"] == network) & (table["layer"] == layer) & (table["kind"] == kind)]
    return rows.set_index("unit").sort_index()


def check_pictures(paths: Paths, network: str, layer: str, *, seed: int = 5) -> None:
    """Responses to optimised pictures are means of maps, and NaN for dead units, which have no picture.

    Close: sums run in another order if a picture meets one filter instead of all.
    """
    stimuli, table = read_outputs(paths)
    pictures, optimised = stimuli.optimised(network, layer), select(table, network, layer, "optimised")
    alive = optimised["reason"].eq("").to_numpy()
    np.testing.assert_array_equal(np.isnan(pictures).reshape(len(pictures), -1).any(axis=1), ~alive)
    assert alive.any() and np.array_equal(optimised["response"].isna(), ~alive)
    maps = record(paths, network, layer, pictures[alive], seed=seed)[np.arange(alive.sum()), np.flatnonzero(alive)]
    np.testing.assert_allclose(optimised["response"][alive], maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)


def test_every_unit_has_a_row_of_every_kind(analysed: Paths, outputs: tuple[PreferredSet, pd.DataFrame]) -> None:
    _, table = outputs
    expected = [
        (network, layer, depth, unit, kind)
        for network in NETWORKS
        for layer, (depth, units) in LAYERS.items()
        for unit in range(units)
        for kind in KINDS
    ]
    columns = ["trained_on", "layer", "depth", "unit", "kind"]
    assert list(table[columns].itertuples(index=False, name=None)) == expected
    assert set(table["seed"]) == {5} and set(table["source"]) == {"embedded faces"}
    header = read_document(analysed.preferred / HEADER_FILE, remedy="")
    files = read_files(analysed.preferred, "*.npy")
    assert len(files) == 4 * 2 * 2
    assert header.pop("digests") == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    layers = [{"name": name, "depth": depth, "units": units} for name, (depth, units) in LAYERS.items()]
    assert header == {
        "version": 2,
        "source": "embedded faces",
        "seed": 5,
        "height": 32,
        "width": 32,
        "channels": 1,
        "size": 32,
        "input_channels": 1,
        "layers": dict.fromkeys(NETWORKS, layers),
    }


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_responses_to_pictures_are_means_of_maps(
    analysed: Paths, outputs: tuple[PreferredSet, pd.DataFrame], network: str, layer: str
) -> None:
    check_pictures(analysed, network, layer)
    optimised, start, random = (select(outputs[1], network, layer, kind) for kind in KINDS[:3])
    alive = optimised["reason"] == ""
    assert (optimised["response"] > start["response"])[alive].all()
    assert (start["response"] >= random["response"] - 1e-6).all()
    for rows in (optimised, start, random):
        assert rows[["row", "column"]].isna().all(axis=None) and rows["stimulus"].eq("").all()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_best_face_is_the_best_of_all(
    analysed: Paths, outputs: tuple[PreferredSet, pd.DataFrame], network: str, layer: str
) -> None:
    faces = FaceSet.open(analysed.faces("probe"))
    images = faces.images(np.arange(len(faces)))
    maps = record(analysed, network, layer, images)
    means = maps.mean(axis=(2, 3))
    rows, best = select(outputs[1], network, layer, "image"), outputs[0].best(network, layer)
    driven = means.max(axis=0) > 0
    assert driven.any() and rows["reason"].tolist() == ["" if yes else stage.SILENT for yes in driven]
    np.testing.assert_allclose(rows["response"], means.max(axis=0), rtol=1e-5, atol=1e-9)
    for unit in np.flatnonzero(driven):
        (index,) = np.flatnonzero(faces.labels["stimulus"] == rows.loc[unit, "stimulus"])
        np.testing.assert_allclose(means[index, unit], means[:, unit].max(), rtol=1e-5)
        np.testing.assert_array_equal(best[unit], images[index])
        cell = int(rows.loc[unit, "row"]), int(rows.loc[unit, "column"])
        np.testing.assert_allclose(maps[index, unit][cell], maps[index, unit].max(), rtol=1e-5)


def test_a_units_picture_is_that_of_its_own_stream(analysed: Paths, outputs: tuple[PreferredSet, pd.DataFrame]) -> None:
    """Named by the block's seed, network, layer and unit; with the recipe of the parameters."""
    checkpoint = checkpoints.load_checkpoint(analysed.checkpoint("finetune", "identity", 5))
    streams = {3: generator(147, "preferred", "identity", "trunk.relu2", 3)}
    with deterministic_torch():
        alone = optimise_stimuli(
            checkpoint.network,
            "trunk.relu2",
            streams,
            preset=checkpoint.preset,
            recipe=Recipe(steps=24, starts=3),
            device=torch.device("cpu"),
        )
    np.testing.assert_array_equal(outputs[0].optimised("identity", "trunk.relu2")[3], alone.images[0])


def test_units_may_come_in_parts(
    outputs: tuple[PreferredSet, pd.DataFrame], explained: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time: the same pictures, up to sums in another order."""
    monkeypatch.setattr(stage, "UNITS", 2)
    stimuli, table = run(explained, params)
    pd.testing.assert_frame_equal(table, outputs[1], rtol=1e-2)
    for network in NETWORKS:
        for layer in LAYERS:
            pictures = outputs[0].optimised(network, layer)
            np.testing.assert_allclose(stimuli.optimised(network, layer), pictures, atol=0.01)


def test_finished_work_stays_if_a_network_is_missing(analysed_copy: Paths, params: Params) -> None:
    before = read_files(analysed_copy.preferred)
    analysed_copy.checkpoint("finetune", "identity", 5).unlink()
    with pytest.raises(StudyError, match="no such checkpoint"):
        stage.run(analysed_copy, params, device="cpu")
    assert read_files(analysed_copy.preferred) == before


def test_stimuli_are_of_the_first_seed(
    outputs: tuple[PreferredSet, pd.DataFrame], explained: Paths, params: Params
) -> None:
    stimuli, table = run(explained, params.model_copy(update={"seeds": [6, 5]}))
    assert stimuli.seed == 6 and set(table["seed"]) == {6}
    assert not np.allclose(table["response"], outputs[1]["response"], rtol=0.01)
    check_pictures(explained, "joint", "trunk.relu2", seed=6)


def test_units_that_nothing_drives_have_a_reason(explained: Paths, params: Params) -> None:
    """Unit 1 never responds; unit 2 has one response to all pictures, and a best face as good as any."""
    path = explained.checkpoint("finetune", "joint", 5)
    checkpoint = checkpoints.load_checkpoint(path)
    with torch.no_grad():
        checkpoint.network.trunk.norm2.weight[1:3] = 0.0
        checkpoint.network.trunk.norm2.bias[1:3] = torch.tensor([-1.0, 0.5])
    checkpoints.save_checkpoint(path, checkpoint)
    stimuli, table = run(explained, params)
    rows = table.query("trained_on == 'joint' and layer == 'trunk.relu2' and unit in [1, 2]").set_index(
        ["unit", "kind"]
    )
    assert rows.index.tolist() == [(unit, kind) for unit in (1, 2) for kind in KINDS]
    dead = ["dead: no picture woke it", "dead: it answers all pictures alike"]
    assert rows["reason"].tolist() == [dead[0], "", "", stage.SILENT, dead[1], "", "", ""]
    np.testing.assert_array_equal(rows["response"], [np.nan, 0, 0, 0, np.nan, 0.5, 0.5, 0.5])
    first = FaceSet.open(explained.faces("probe")).images(np.array([0]))[0]
    best = stimuli.best("joint", "trunk.relu2")
    assert np.isnan(stimuli.optimised("joint", "trunk.relu2")[1:3]).all() and (best[1] == 0).all()
    np.testing.assert_array_equal(best[2], first)
    assert rows["stimulus"][1, "image"] == "" and rows.loc[(1, "image"), ["row", "column"]].isna().all()
    assert rows.loc[(2, "image"), ["row", "column"]].tolist() == [0, 0]


def test_colours_and_branches(explained: Paths, params: Params) -> None:
    """Networks that take RGB get RGB pictures, though the faces are grey; branches follow in the order of tasks."""
    for network in NETWORKS:
        path = explained.checkpoint("untrained" if network == "untrained" else "finetune", network, 5)
        old = checkpoints.load_checkpoint(path)
        block = old.network.block.model_copy(update={"branch_after": "conv1"})
        fresh = build_network(block, old.network.classes, channels=3, generator=seeded(3)).eval()
        checkpoints.save_checkpoint(path, replace(old, network=fresh, preset=replace(old.preset, channels=3)))
    stimuli, _ = run(explained, params)
    layers = ["trunk.relu1", "branches.expression.relu2", "branches.identity.relu2"]
    assert stimuli.layers("joint") == layers and stimuli.layers("identity") == [layers[0], layers[2]]
    assert [layer.depth for layer in stimuli.header.layers[Network.JOINT]] == [1, 2, 2]
    for layer, units in zip(layers, (3, 5, 5), strict=True):
        assert stimuli.best("joint", layer).shape == (units, 32, 32)
        assert stimuli.optimised("joint", layer).shape == (units, 32, 32, 3)
        check_pictures(explained, "joint", layer)
