from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.data.faceset import FaceSet
from facespec.published.reference import read_published_bars
from facespec.stages import export
from facespec.study.artefacts import read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.maps import HEADER_FILE, MapSet
from facespec.study.paths import Paths
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, HEATMAPS, PREFERRED

FIRST, SECOND = 6, 5  # the study's first seed need not be the smallest
FIG2 = {f"Fig2{panel}_dict.pickle" for panel in "ABCD"}
FIGS2B = {
    network: f"SFig2B_{name}_Layer_Names_and_Activations.pickle"
    for network, name in {"joint": "SPLIT", "expression": "exp", "identity": "id"}.items()
}


@pytest.fixture
def study(explained: Paths) -> Paths:
    """Heatmaps of tiny networks, seeds turned round; every bar, seed and resample with a number of its own."""
    paths = explained
    table = HEATMAPS.read(paths.table("heatmaps"))
    write_table(paths.table("heatmaps"), table.sort_values("seed", ascending=False, kind="stable"))
    head = read_document(paths.heatmaps / HEADER_FILE, remedy="")
    write_document(paths.heatmaps / HEADER_FILE, head | {"seeds": head["seeds"][::-1]})
    for name, figures in {"decoding": ("1B", "S1A"), "accuracy": ("1C", "S1B")}.items():
        cells = [
            pd.DataFrame(
                {
                    "figure": bar.figure,
                    "trained_on": bar.trained_on,
                    "tested_on": bar.tested_on,
                    "role": "probe",
                    "source": "embedded faces",
                    "seed": seed,
                    "resample": range(-1, 103),
                    "n": 9,
                    "chance": 0.1,
                    "accuracy": [(1000 * i + 200 * (seed == SECOND) + r) / 20000 for r in range(104)],
                }
            )
            for seed in (FIRST, SECOND)
            for i, bar in enumerate(read_published_bars())
            if bar.figure in figures
        ]
        write_table(paths.table(name), ACCURACY.check(pd.concat(cells, ignore_index=True)))
    write_table(paths.table("preferred"), preferred_table())
    return paths


def preferred_table() -> pd.DataFrame:
    """Two layers of three units per network; the last unit is dead, and has no response."""
    return PREFERRED.check(
        pd.DataFrame(
            [
                {
                    "trained_on": network,
                    "source": "embedded faces",
                    "seed": FIRST,
                    "layer": f"trunk.relu{depth}",
                    "depth": depth,
                    "unit": unit,
                    "kind": kind,
                    "stimulus": "",
                    "row": np.nan,
                    "column": np.nan,
                    "reason": "",
                    "response": np.nan if unit == 2 else i + depth / 8 + unit / 64 + 9 * (kind == "image"),
                }
                for i, network in enumerate(FIGS2B)
                for depth in (1, 2)
                for unit in range(3)
                for kind in ("image", "optimised")
            ]
        )
    )


def files(paths: Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.results.glob("*.pickle")}


def test_the_accuracies_are_the_first_seeds_first_hundred_resamples(study: Paths) -> None:
    export.run(study)
    bars = read_published_bars()
    assert files(study).keys() == {bar.file for bar in bars} | FIG2 | {*FIGS2B.values()}
    assert len(files(study)) == 11
    for i, bar in enumerate(bars):
        # plain pickle, as the original's own cells read them
        content = pickle.loads((study.results / bar.file).read_bytes())
        assert content[bar.key] == [(1000 * i + r) / 20000 for r in range(1, 101)]


def test_running_again_gives_the_same_bytes(study: Paths) -> None:
    export.run(study)
    first = files(study)
    export.run(study)
    assert files(study) == first


def test_nothing_is_written_where_one_cell_is_short(study: Paths) -> None:
    table = ACCURACY.read(study.table("accuracy"))
    short = table[
        ~table.eval("figure == 'S1B' and trained_on == 'joint' and tested_on == 'identity' and resample == 5")
    ]
    write_table(study.table("accuracy"), short)
    with pytest.raises(StudyError) as caught:
        export.run(study)
    assert str(caught.value) == (
        "figure S1B, joint network tested on identity, seed 6: "
        "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle needs resamples 0 to 99, each once; "
        "the table has 99 rows of them."
    )
    assert not files(study)


def test_nothing_is_written_where_a_heatmap_is_not_whole(study: Paths) -> None:
    table = HEATMAPS.read(study.table("heatmaps"))
    gone = "trained_on == 'identity' and scale == 'scaled' and expression == 'all' and row == 3 and column == 15"
    write_table(study.table("heatmaps"), table[~table.eval(gone)])
    with pytest.raises(StudyError) as caught:
        export.run(study)
    assert str(caught.value) == (
        "table 'heatmaps', identity network on identity, seed 6: the mean scaled map needs every cell of 16 x 16, each "
        "once; the table has 255 rows of it. Make the heatmaps again."
    )
    assert not files(study)


def test_nothing_is_written_where_a_unit_is_missing(study: Paths) -> None:
    table = preferred_table().query("not (trained_on == 'identity' and layer == 'trunk.relu2' and unit == 0)")
    write_table(study.table("preferred"), table)
    with pytest.raises(StudyError, match=r"identity network, layer 'trunk\.relu2': .* the table has 2 rows of them\."):
        export.run(study)
    assert not files(study)


def test_responses_to_preferred_stimuli_come_layer_by_layer(study: Paths) -> None:
    export.run(study)
    for i, file in enumerate(FIGS2B.values()):
        content = pickle.loads((study.results / file).read_bytes())
        assert content["layer_names"] == ["trunk.relu1", "trunk.relu2"]
        expected = [[i + depth / 8 + unit / 64 for unit in (0, 1)] + [np.nan] for depth in (1, 2)]
        np.testing.assert_array_equal(content["activations"], expected)


@pytest.mark.parametrize("name", ["decoding", "accuracy", "heatmaps", "preferred"])
def test_a_missing_table_is_named(study: Paths, name: str) -> None:
    study.table(name).unlink()
    with pytest.raises(StudyError) as caught:
        export.run(study)
    assert str(caught.value) == f"{study.table(name)}: no such file. `dvc repro` makes it."


def by_hand(maps: np.ndarray) -> np.ndarray:
    """The mean of maps (n, h, w), each stretched to [0, 1], at 32 x 32 px, by another library."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    seen = (high > low)[:, 0, 0]
    mean = torch.from_numpy(((maps - low)[seen] / (high - low)[seen]).astype(np.float64).mean(axis=0))
    return torch.nn.functional.interpolate(mean[None, None], (32, 32), mode="bilinear")[0, 0].numpy()


def test_heatmaps_are_those_of_the_first_seed(study: Paths) -> None:
    export.run(study)
    made = MapSet.open(study.heatmaps)
    found = pickle.loads((study.results / "Fig2B_dict.pickle").read_bytes())
    for key, pair in {
        "SPLIT expression": ("joint", "expression"),
        "exp": ("expression", "expression"),
        "SPLIT id": ("joint", "identity"),
        "id": ("identity", "identity"),
    }.items():
        np.testing.assert_allclose(found[key], by_hand(made.maps(*pair, FIRST)).ravel(), rtol=1e-5)
        assert not np.allclose(found[key], by_hand(made.maps(*pair, SECOND)).ravel(), rtol=1e-2)
    face = pickle.loads((study.results / "Fig2C_dict.pickle").read_bytes())["avg_img"]
    probe = FaceSet.open(study.faces("probe"))
    frontal = np.flatnonzero(probe.labels["view"] == "straight")
    np.testing.assert_allclose(face[..., 1], probe.images(frontal).mean(axis=0))


def test_examples_are_the_faces_that_their_names_say(study: Paths) -> None:
    export.run(study)
    found = pickle.loads((study.results / "Fig2D_dict.pickle").read_bytes())
    made, probe = MapSet.open(study.heatmaps), FaceSet.open(study.faces("probe"))
    assert len(found) == 7 and len({name.split("-")[1] for name in found}) == 7
    for name, models in found.items():
        (image,) = probe.images(np.flatnonzero(probe.labels["stimulus"] == name))
        (row,) = np.flatnonzero(made.labels["stimulus"] == name)
        for model, network in {"SPLIT": "joint", "exp": "expression"}.items():
            for channel in range(3):
                np.testing.assert_array_equal(models[model]["img"][..., channel], image)
            raw = made.maps(network, "expression", FIRST)[row].astype(np.float64)
            span = raw.max() - raw.min()
            expected = (raw - raw.min()) / span if span else np.zeros_like(raw)
            np.testing.assert_allclose(models[model]["heatmap"], expected, atol=1e-12)


def test_heatmaps_of_faces_that_are_gone_are_refused(study: Paths, relabel: Callable[..., None]) -> None:
    relabel(study.faces("probe"), lambda table: table.assign(stimulus="other-" + table["stimulus"]))
    with pytest.raises(StudyError) as caught:
        export.run(study)
    assert str(caught.value) == (
        f"{study.heatmaps}: not the heatmaps of {study.faces('probe')}: stimulus 'AF01-angry-straight' is not among "
        "them. `dvc repro heatmaps` makes them."
    )
    assert not files(study)
