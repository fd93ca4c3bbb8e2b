"""Every unit of every network has its picture and its face, and all responses are measured alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.analyses.preferred import Recipe, optimise_stimuli
from facespec.data.batches import Preset, apply_preset
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch
from facespec.models.networks import build_network
from facespec.responses.recording import record_responses
from facespec.stages import preferred as stage
from facespec.study.artefacts import read_document
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.preferred import HEADER_FILE, PreferredSet
from facespec.study.seeds import generator
from facespec.study.tables import PREFERRED
from facespec.study.vocabulary import Network

LAYERS = {"trunk.relu1": (1, 3), "trunk.relu2": (2, 5)}
NETWORKS = ("expression", "identity", "joint")
KINDS = ("optimised", "start", "random", "image")


def made(paths: Paths, *, turned: bool = False) -> tuple[PreferredSet, pd.DataFrame]:
    """What the stage writes; `turned`: with the study's seeds in the other order."""
    params = read_params(paths.params)
    stage.run(paths, params.model_copy(update={"seeds": params.seeds[::-1]}) if turned else params, device="cpu")
    return PreferredSet.open(paths.preferred), PREFERRED.read(paths.table("preferred"))


@pytest.fixture(scope="module")
def finished(explained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, pd.DataFrame]:
    """The tiny study, linked, with what the stage makes of it; not to be written into."""
    root = tmp_path_factory.mktemp("preferred")
    for name in ("data", "checkpoints", "params.yaml"):
        (root / name).symlink_to(explained_study / name)
    return Paths(root), made(Paths(root))[1]


def answers(paths: Paths, network: str, layer: str, images: np.ndarray, *, seed: int = 5) -> np.ndarray:
    """Maps (n, units, h, w) of images, uint8 as stored or float32 pictures: the network's own forward pass."""
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint("finetune", network, seed))
    preset = Preset(**checkpoint.preset)
    if images.dtype == np.uint8:
        seen = apply_preset(images, preset, None)
    else:
        planes = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
        seen = (planes - preset.mean) / preset.std
    with record_responses(checkpoint.network, [layer]) as responses, torch.inference_mode():
        checkpoint.network(seen)
    return responses[layer].numpy()


def rows(table: pd.DataFrame, network: str, layer: str, kind: str) -> pd.DataFrame:
    own = table[(table["trained_on"] == network) & (table["layer"] == layer) & (table["kind"] == kind)]
    return own.set_index("unit").sort_index()


def test_every_unit_has_a_row_of_every_kind(finished: tuple[Paths, pd.DataFrame]) -> None:
    paths, table = finished
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
    content = read_document(paths.preferred / HEADER_FILE, remedy="")
    files = [path for path in paths.preferred.iterdir() if path.name != HEADER_FILE]
    assert content.pop("digests") == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert content == {
        "version": 2,
        "source": "embedded faces",
        "seed": 5,
        "height": 32,
        "width": 32,
        "channels": 1,
        "size": 32,
        "input_channels": 1,
        "layers": {
            network: [{"name": name, "depth": depth, "units": units} for name, (depth, units) in LAYERS.items()]
            for network in NETWORKS
        },
    }
    assert len(list(paths.preferred.iterdir())) == 1 + 3 * 2 * 2


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_responses_are_means_of_maps_whatever_the_picture(
    finished: tuple[Paths, pd.DataFrame], network: str, layer: str
) -> None:
    """Close: sums run in another order where a picture meets one filter instead of all."""
    paths, table = finished
    found, units = PreferredSet.open(paths.preferred), np.arange(LAYERS[layer][1])
    optimised, start, random = (rows(table, network, layer, kind) for kind in ("optimised", "start", "random"))
    alive = optimised["reason"].eq("").to_numpy()
    pictures = found.optimised(network, layer)
    np.testing.assert_array_equal(np.isnan(pictures).any(axis=(1, 2)), ~alive)
    assert alive.any() and np.array_equal(optimised["response"].isna(), ~alive)
    shown = answers(paths, network, layer, pictures[alive])[np.arange(alive.sum()), units[alive]]
    np.testing.assert_allclose(optimised["response"][alive], shown.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
    assert (optimised["response"] > start["response"])[alive].all()
    assert (start["response"] >= random["response"] - 1e-6).all()
    for own in (optimised, start, random):
        assert own[["row", "column"]].isna().all(axis=None) and own["stimulus"].eq("").all()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_best_face_is_the_best_of_all(finished: tuple[Paths, pd.DataFrame], network: str, layer: str) -> None:
    paths, table = finished
    faces = FaceSet.open(paths.faces("probe"))
    images = faces.images(np.arange(len(faces)))
    maps = answers(paths, network, layer, images)
    means = maps.mean(axis=(2, 3))
    own, best = rows(table, network, layer, "image"), PreferredSet.open(paths.preferred).best(network, layer)
    driven = means.max(axis=0) > 0
    assert driven.any() and own["reason"].tolist() == ["" if yes else stage.SILENT for yes in driven]
    np.testing.assert_allclose(own["response"], means.max(axis=0), rtol=1e-5, atol=1e-9)
    for unit in np.flatnonzero(driven):
        (index,) = np.flatnonzero(faces.labels["stimulus"] == own.loc[unit, "stimulus"])
        np.testing.assert_allclose(means[index, unit], means[:, unit].max(), rtol=1e-5)
        np.testing.assert_array_equal(best[unit], images[index])
        cell = int(own.loc[unit, "row"]), int(own.loc[unit, "column"])
        np.testing.assert_allclose(maps[index, unit][cell], maps[index, unit].max(), rtol=1e-5)


def test_a_units_picture_is_that_of_its_own_stream(finished: tuple[Paths, pd.DataFrame]) -> None:
    """Named by the block's seed, network, layer and unit; with the recipe of the parameters."""
    paths, _ = finished
    checkpoint = checkpoints.load_checkpoint(paths.checkpoint("finetune", "identity", 5))
    stream = generator(147, "preferred", "identity", "trunk.relu2", 3)
    with deterministic_torch():
        alone = optimise_stimuli(
            checkpoint.network,
            "trunk.relu2",
            {3: stream},
            preset=Preset(**checkpoint.preset),
            recipe=Recipe(steps=24, starts=3),
            device=torch.device("cpu"),
        )
    found = PreferredSet.open(paths.preferred).optimised("identity", "trunk.relu2")[3]
    np.testing.assert_array_equal(found, alone.images[0])


def test_units_may_come_in_parts(
    finished: tuple[Paths, pd.DataFrame], explained: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: the same pictures, up to sums in another order."""
    monkeypatch.setattr(stage, "UNITS", 2)
    found, table = made(explained)
    pd.testing.assert_frame_equal(table, finished[1], rtol=1e-2)
    before = PreferredSet.open(finished[0].preferred)
    for network in NETWORKS:
        for layer in LAYERS:
            np.testing.assert_allclose(found.optimised(network, layer), before.optimised(network, layer), atol=0.01)


def test_the_same_bytes_twice(finished: tuple[Paths, pd.DataFrame], explained: Paths) -> None:
    made(explained)
    one, other = (
        {path.name: path.read_bytes() for path in paths.preferred.iterdir()} for paths in (finished[0], explained)
    )
    assert one == other
    assert explained.table("preferred").read_bytes() == finished[0].table("preferred").read_bytes()


def test_it_is_the_first_seed_that_is_drawn(finished: tuple[Paths, pd.DataFrame], explained: Paths) -> None:
    found, table = made(explained, turned=True)
    assert found.seed == 6 and set(table["seed"]) == {6}
    assert not np.allclose(table["response"], finished[1]["response"], rtol=0.01)
    pictures = found.optimised("joint", "trunk.relu2")
    alive = ~np.isnan(pictures).any(axis=(1, 2))
    maps = answers(explained, "joint", "trunk.relu2", pictures[alive], seed=6)
    shown = maps[np.arange(alive.sum()), np.flatnonzero(alive)].mean(axis=(1, 2))
    optimised = rows(table, "joint", "trunk.relu2", "optimised")["response"].to_numpy()
    np.testing.assert_allclose(optimised[alive], shown, rtol=1e-4, atol=1e-6)


def test_units_that_nothing_drives_are_told_and_named(explained: Paths) -> None:
    """Unit 1 never answers; unit 2 answers all pictures alike, and has a best face as good as any."""
    path = explained.checkpoint("finetune", "joint", 5)
    checkpoint = checkpoints.load_checkpoint(path)
    with torch.no_grad():
        checkpoint.network.trunk.norm2.weight[1:3] = 0.0
        checkpoint.network.trunk.norm2.bias[1:3] = torch.tensor([-1.0, 0.5])
    checkpoints.save_checkpoint(path, checkpoint)
    found, table = made(explained)
    first = FaceSet.open(explained.faces("probe")).images(np.array([0]))[0]
    told = table[(table["trained_on"] == "joint") & (table["layer"] == "trunk.relu2") & table["unit"].isin([1, 2])]
    answered = told.set_index(["unit", "kind"])[["response", "reason"]]
    assert answered["reason"].to_dict() == {
        (1, "optimised"): "dead: no picture woke it",
        (1, "start"): "",
        (1, "random"): "",
        (1, "image"): stage.SILENT,
        (2, "optimised"): "dead: it answers all pictures alike",
        (2, "start"): "",
        (2, "random"): "",
        (2, "image"): "",
    }
    expected = [np.nan, 0, 0, 0, np.nan, 0.5, 0.5, 0.5]
    np.testing.assert_array_equal(answered["response"], expected)
    assert np.isnan(found.optimised("joint", "trunk.relu2")[1:3]).all()
    assert (found.best("joint", "trunk.relu2")[1] == 0).all()
    np.testing.assert_array_equal(found.best("joint", "trunk.relu2")[2], first)
    places = told.set_index(["unit", "kind"])[["stimulus", "row", "column"]]
    assert places.loc[(1, "image"), "stimulus"] == "" and places.loc[(1, "image"), ["row", "column"]].isna().all()
    assert places.loc[(2, "image"), ["row", "column"]].tolist() == [0, 0]


def test_colours_and_branches(explained: Paths) -> None:
    """Networks that see RGB get RGB pictures, though the faces are grey; branches of equal depth follow the tasks."""
    for network in NETWORKS:
        path = explained.checkpoint("finetune", network, 5)
        old = checkpoints.load_checkpoint(path)
        block = old.network.block.model_copy(update={"branch_after": "conv1"})
        draw = torch.Generator().manual_seed(3)
        fresh = build_network(block, old.network.classes, channels=3, generator=draw).eval()
        checkpoints.save_checkpoint(path, replace(old, network=fresh, preset=old.preset | {"channels": 3}))
    found, table = made(explained)
    layers = ["trunk.relu1", "branches.expression.relu2", "branches.identity.relu2"]
    assert found.layers("joint") == layers and found.layers("identity") == [layers[0], layers[2]]
    assert [layer.depth for layer in found.head.layers[Network.JOINT]] == [1, 2, 2]
    for layer, units in zip(layers, (3, 5, 5), strict=True):
        assert found.best("joint", layer).shape == (units, 32, 32)
        pictures = found.optimised("joint", layer)
        assert pictures.shape == (units, 32, 32, 3)
        alive = np.isfinite(pictures).all(axis=(1, 2, 3))
        shown = answers(explained, "joint", layer, pictures[alive])[np.arange(alive.sum()), np.flatnonzero(alive)]
        optimised = rows(table, "joint", layer, "optimised")["response"].to_numpy()
        np.testing.assert_allclose(optimised[alive], shown.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
        assert alive.any()


def test_finished_work_stays_where_a_network_is_missing(explained: Paths) -> None:
    made(explained)
    before = {path.name: path.read_bytes() for path in explained.preferred.iterdir()}
    explained.checkpoint("finetune", "identity", 5).unlink()
    with pytest.raises(StudyError, match="no such checkpoint"):
        made(explained)
    assert {path.name: path.read_bytes() for path in explained.preferred.iterdir()} == before
