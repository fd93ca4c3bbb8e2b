from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models.checkpoints import load_checkpoint
from facespec.models.networks import build_network
from facespec.stages import decoding
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator, integer_seed
from facespec.study.tables import ACCURACY
from toys import seeded

TRAINED = ("expression", "identity")
BASELINES = ("untrained", "pixels", "pixels_nearest")


def test_every_cell_seed_and_resample_has_its_row(analysed: Paths) -> None:
    table = ACCURACY.read(analysed.table("decoding"))
    cells = table.groupby(["figure", "trained_on", "tested_on", "seed"])["resample"].apply(list)
    assert all(resamples == list(range(-1, 100)) for resamples in cells)
    expected = [
        (figure, trained_on, task, seed)
        for figure, rows in (("1B", TRAINED + BASELINES), ("S1A", TRAINED + BASELINES), ("S1B", BASELINES))
        for trained_on in rows
        for task in ("expression", "identity")
        for seed in (5, 6)
    ]
    assert sorted(cells.index) == sorted(expected)
    # by hand: 3 people x 7 expressions; 7 x 1 and 4 people x 2; 42 and 4 people x 5
    assert set(table[["figure", "tested_on", "role", "n"]].itertuples(index=False, name=None)) == {
        ("1B", "expression", "probe", 21),
        ("1B", "identity", "probe", 21),
        ("S1A", "expression", "expression", 7),
        ("S1A", "identity", "identity", 8),
        ("S1B", "expression", "expression", 42),
        ("S1B", "identity", "identity", 20),
    }
    labels = FaceSet.open(analysed.faces("expression")).labels
    constant = labels["expression"][labels["split"] == "test"].value_counts().max() / 42
    chances = table.groupby(["figure", "tested_on"])["chance"].agg(["min", "max"]).T
    np.testing.assert_allclose(chances, [[1 / 7, 1 / 3, 1 / 7, 1 / 4, constant, 1 / 4]] * 2)
    assert set(table["source"]) == {"embedded faces"}


def test_the_untrained_row_is_the_trunk_that_training_began_with(analysed: Paths, params: Params) -> None:
    """By another road: weights from the seed, all images at once, and scikit-learn's own score."""
    table = ACCURACY.read(analysed.table("decoding")).query("figure == '1B' and trained_on == 'untrained'")
    rows = table.query("resample == -1").set_index(["tested_on", "seed"])["accuracy"]
    faces = FaceSet.open(analysed.faces("probe"))
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    for seed in params.seeds:
        checkpoint = load_checkpoint(analysed.checkpoint("train", "identity", seed))
        weights = seeded(integer_seed(seed, "train", "weights"))
        network = build_network(params.network, {"identity": 9}, channels=1, generator=weights).eval()
        with torch.no_grad():
            images = apply_preset(faces.images(np.arange(len(faces.labels))), checkpoint.preset, None)
            responses = network.trunk(images).numpy().astype(float)
        for task in ("expression", "identity"):
            classes = faces.labels[task].to_numpy()
            regression = LogisticRegression(C=params.decoding.penalty, max_iter=params.decoding.iterations)
            decoder = make_pipeline(StandardScaler(), regression).fit(responses[fit], classes[fit])
            # by another road the last bits differ, and with them a close call, of an image at most
            assert abs(rows[task, seed] - decoder.score(responses[test], classes[test])) <= 1.01 / 21


def test_pixel_baselines_are_those_of_the_pixels_for_every_seed(analysed: Paths, params: Params) -> None:
    """The nearest image by brute force."""
    faces = FaceSet.open(analysed.faces("identity"))
    (task,) = [t for t in decoding.list_decoding_tasks(analysed, params) if (t.figure, t.task) == ("S1B", "identity")]
    names, images = faces.labels["identity"].to_numpy(), faces.images(np.arange(len(faces.labels))).astype(float)
    distances = ((images[task.test_rows][:, None] - images[task.fit_rows][None]) ** 2).sum(axis=(2, 3))
    nearest = names[task.fit_rows][distances.argmin(axis=1)]
    table = ACCURACY.read(analysed.table("decoding")).query("trained_on in ['pixels', 'pixels_nearest']")
    accuracy = table.query("figure == 'S1B' and tested_on == 'identity' and trained_on == 'pixels_nearest'")
    assert set(accuracy.query("resample == -1")["accuracy"]) == {(nearest == names[task.test_rows]).mean()}
    seeds = [rows.drop(columns="seed").reset_index(drop=True) for _, rows in table.groupby("seed")]
    assert len(seeds) == 2 and seeds[0].equals(seeds[1])


def test_pixel_baselines_are_fitted_to_no_more_images_than_is_said(
    analysed: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []
    classify = decoding.classify_by_discriminants
    monkeypatch.setattr(
        decoding,
        "classify_by_discriminants",
        lambda fit, *rest, **k: fitted.append(len(fit)) or classify(fit, *rest, **k),
    )
    block = params.decoding.model_copy(update={"pixel_images": 29})
    for task in decoding.list_decoding_tasks(analysed, params):
        list(decoding._decode_pixels(task, [5], block))
    assert fitted == [29] * 6  # the tasks have 189, 40 and 36 images to fit


def test_resamples_are_paired_between_networks(analysed: Paths) -> None:
    """Equal images are drawn for all: networks that are right on the same images are so on every resample."""
    table = ACCURACY.read(analysed.table("decoding")).query("figure == '1B'")
    wide = table.pivot_table(index="resample", columns=["trained_on", "tested_on", "seed"], values="accuracy")
    counts = wide * 21
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    # perfect decoders stay perfect; of imperfect ones, some pair must covary as independent draws would not
    varying = wide.loc[0:, wide.std() > 0]
    assert varying.corr().to_numpy()[np.triu_indices(varying.shape[1], 1)].max() > 0.3


def test_no_image_is_both_fitted_and_tested(analysed: Paths, params: Params) -> None:
    tasks = list(decoding.list_decoding_tasks(analysed, params))
    assert [(task.figure, task.task.value) for task in tasks] == [
        ("1B", "expression"),
        ("1B", "identity"),
        ("S1B", "expression"),
        ("S1A", "expression"),
        ("S1B", "identity"),
        ("S1A", "identity"),
    ]
    for task in tasks:
        assert not set(task.fit_rows) & set(task.test_rows)
        assert task.figure == "1B" or len(task.fit_rows) <= params.decoding.fit_images
    split = FaceSet.open(analysed.faces("identity")).labels["split"]
    for task in tasks[4:]:
        assert set(split[task.test_rows]) == {"test"} and set(split[task.fit_rows]) == {"train"}
