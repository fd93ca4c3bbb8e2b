from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from facespec.data.faceset import FaceSet
from facespec.published.reference import read_published_bars
from facespec.stages import export
from facespec.stages.accuracies import read_accuracies
from facespec.study.artefacts import read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.maps import HEADER_FILE, MapSet
from facespec.study.paths import Paths
from facespec.study.schema import Schema
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, HEATMAPS, PREFERRED
from toys import read_files

FIRST, SECOND = 6, 5  # the study's first seed need not be the smallest
FIG2 = {f"Fig2{panel}_dict.pickle" for panel in "ABCD"}
FIGS2B = {
    network: f"SFig2B_{name}_Layer_Names_and_Activations.pickle"
    for network, name in {"joint": "SPLIT", "expression": "exp", "identity": "id"}.items()
}


@pytest.fixture(scope="module")
def exported(analysed: Paths, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The analysed study as if seed 6 were its first, and its exported files; not to be written into."""
    paths = Paths(tmp_path_factory.mktemp("export") / "study")
    shutil.copytree(analysed.root, paths.root)
    for name, schema in {"decoding": ACCURACY, "accuracy": ACCURACY, "heatmaps": HEATMAPS}.items():
        table = schema.read(paths.table(name))
        write_table(paths.table(name), table.sort_values("seed", ascending=False, kind="stable"))
    write_table(paths.table("preferred"), PREFERRED.read(paths.table("preferred")).assign(seed=FIRST))
    header = read_document(paths.heatmaps / HEADER_FILE, remedy="")
    write_document(paths.heatmaps / HEADER_FILE, header | {"seeds": [FIRST, SECOND]})
    export.run(paths)
    return paths


@pytest.fixture
def study(exported: Paths, tmp_path: Path) -> Paths:
    """A copy of that study without the exported files."""
    shutil.copytree(exported.root, tmp_path / "study", ignore=shutil.ignore_patterns("*.pickle"))
    return Paths(tmp_path / "study")


def load(paths: Paths, name: str) -> dict:
    """By plain pickle, as the original's own cells read them."""
    return pickle.loads((paths.results / name).read_bytes())


def test_the_accuracies_are_the_first_seeds_resamples(exported: Paths) -> None:
    bars = read_published_bars()
    names = {path.name for path in exported.results.glob("*.pickle")}
    assert names == {bar.file for bar in bars} | FIG2 | {*FIGS2B.values()} and len(names) == 11
    table = read_accuracies(exported).query("seed == @FIRST and resample >= 0")
    accuracies = table.set_index(["figure", "trained_on", "tested_on"])["accuracy"].sort_index()
    for bar in bars:
        expected = accuracies.loc[[(bar.figure, bar.trained_on, bar.tested_on)]].tolist()
        assert load(exported, bar.file)[bar.key] == expected and len(expected) == 100


def test_responses_to_preferred_stimuli_come_layer_by_layer(exported: Paths) -> None:
    table = PREFERRED.read(exported.table("preferred")).query("kind == 'optimised'").sort_values("unit")
    for network, file in FIGS2B.items():
        content = load(exported, file)
        assert content["layer_names"] == ["trunk.relu1", "trunk.relu2"]
        for layer, responses in zip(content["layer_names"], content["activations"], strict=True):
            rows = table[(table["trained_on"] == network) & (table["layer"] == layer)]
            np.testing.assert_array_equal(responses, rows["response"])


def average_by_hand(maps: np.ndarray) -> np.ndarray:
    """The mean of maps (n, h, w), each scaled to [0, 1], at 32 x 32 px, by another library."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    varying = (high > low)[:, 0, 0]
    mean = torch.from_numpy(((maps - low)[varying] / (high - low)[varying]).astype(np.float64).mean(axis=0))
    return torch.nn.functional.interpolate(mean[None, None], (32, 32), mode="bilinear")[0, 0].numpy()


def test_heatmaps_are_those_of_the_first_seed(exported: Paths) -> None:
    maps, content = MapSet.open(exported.heatmaps), load(exported, "Fig2B_dict.pickle")
    for key, pair in {
        "SPLIT expression": ("joint", "expression"),
        "exp": ("expression", "expression"),
        "SPLIT id": ("joint", "identity"),
        "id": ("identity", "identity"),
    }.items():
        np.testing.assert_allclose(content[key], average_by_hand(maps.maps(*pair, FIRST)).ravel(), rtol=1e-5)
        assert not np.allclose(content[key], average_by_hand(maps.maps(*pair, SECOND)).ravel(), rtol=1e-2)
    face = load(exported, "Fig2C_dict.pickle")["avg_img"]
    probe = FaceSet.open(exported.faces("probe"))
    frontal = np.flatnonzero(probe.labels["view"] == "straight")
    np.testing.assert_allclose(face[..., 1], probe.images(frontal).mean(axis=0))


def test_examples_are_the_faces_that_their_names_say(exported: Paths) -> None:
    examples = load(exported, "Fig2D_dict.pickle")
    maps, probe = MapSet.open(exported.heatmaps), FaceSet.open(exported.faces("probe"))
    assert len(examples) == 7 and len({name.split("-")[1] for name in examples}) == 7
    for name, models in examples.items():
        (image,) = probe.images(np.flatnonzero(probe.labels["stimulus"] == name))
        (row,) = np.flatnonzero(maps.labels["stimulus"] == name)
        for model, network in {"SPLIT": "joint", "exp": "expression"}.items():
            np.testing.assert_array_equal(models[model]["img"], np.dstack([image] * 3))
            raw = maps.maps(network, "expression", FIRST)[row].astype(np.float64)
            span = raw.max() - raw.min()
            expected = (raw - raw.min()) / span if span else np.zeros_like(raw)
            np.testing.assert_allclose(models[model]["heatmap"], expected, atol=1e-12)


def test_running_again_gives_the_same_bytes(exported: Paths, study: Paths) -> None:
    export.run(study)
    assert read_files(study.results, "*.pickle") == read_files(exported.results, "*.pickle")


@pytest.mark.parametrize(
    ("name", "schema", "rows", "message"),
    [
        (
            "accuracy",
            ACCURACY,
            "figure == 'S1B' and trained_on == 'joint' and tested_on == 'identity' and resample == 5",
            r"figure S1B, joint network tested on identity, seed 6: SFig1B_.* needs resamples 0 to 99, .* has 99 rows",
        ),
        (
            "heatmaps",
            HEATMAPS,
            "trained_on == 'identity' and scale == 'scaled' and expression == 'all' and row == 3 and column == 15",
            r"identity network on identity, seed 6: .* 16 x 16, .* 255 rows of it\. Make the heatmaps again",
        ),
        (
            "preferred",
            PREFERRED,
            "trained_on == 'identity' and layer == 'trunk.relu2' and unit == 0",
            r"identity network, layer 'trunk\.relu2': .* the table has 4 rows of them\.",
        ),
    ],
    ids=["accuracy", "heatmaps", "preferred"],
)
def test_nothing_is_written_if_rows_are_missing(
    study: Paths, name: str, schema: Schema, rows: str, message: str
) -> None:
    table = schema.read(study.table(name))
    write_table(study.table(name), table[~table.eval(rows)])
    with pytest.raises(StudyError, match=message):
        export.run(study)
    assert not list(study.results.glob("*.pickle"))


@pytest.mark.parametrize("name", ["decoding", "accuracy", "heatmaps", "preferred"])
def test_a_missing_table_is_named(study: Paths, name: str) -> None:
    study.table(name).unlink()
    with pytest.raises(StudyError, match=rf"{name}\.csv: no such file\. `dvc repro` makes it\."):
        export.run(study)
    assert not list(study.results.glob("*.pickle"))
