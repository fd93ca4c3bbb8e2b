"""What sharing costs: who is compared with whom, the numbers by hand, and intervals by another road."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from facespec.checks.crossed import bound_mean
from facespec.checks.sharing import decode_correct, summarise_sharing, tabulate_sharing
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables_sharing import FITS
from toys import make_table

N = {"expression": 19, "identity": 11}
Row = dict[str, object]


def make_rows(trained_on: str, seed: int, hits: dict[str, int], parameters: int = 10, **cell: object) -> list[Row]:
    """A network whose first `hits` test images of each task are right."""
    about = {"epochs": 8, "width": 1.0, "branch_after": "", "weight": 1.0, "images": 0} | cell
    about |= {"trained_on": trained_on, "seed": seed, "parameters": parameters, "source": "toys", "chance": 0.1}
    rows = []
    for task, right in hits.items():
        correct = np.arange(N[task]) < right
        digits = np.packbits(correct).tobytes().hex()
        shared = {**about, "tested_on": task}
        rows.append({**shared, "split": "train", "n": 100, "accuracy": 0.9, "correct": ""})
        rows.append({**shared, "split": "test", "n": N[task], "accuracy": correct.mean(), "correct": digits})
    return rows


def make_fits(*networks: list[Row]) -> pd.DataFrame:
    return make_table(FITS, [row for rows in networks for row in rows])


def tabulate(fits: pd.DataFrame) -> pd.DataFrame:
    return tabulate_sharing(fits, level=0.95, resamples=400, generator=generator(3))


def find_means(table: pd.DataFrame, task: str, split: str = "test") -> pd.DataFrame:
    return table[table["seed"].isna() & (table["tested_on"] == task) & (table["split"] == split)]


TWO_SEEDS = (
    make_rows("expression", 1, {"expression": 12}),
    make_rows("expression", 2, {"expression": 15}),
    make_rows("identity", 1, {"identity": 7}, parameters=30),
    make_rows("identity", 2, {"identity": 6}, parameters=30),
    make_rows("joint", 1, {"expression": 10, "identity": 8}, parameters=35),
    make_rows("joint", 2, {"expression": 14, "identity": 9}, parameters=35),
)


def test_differences_are_within_seeds_and_tasks() -> None:
    table = tabulate(make_fits(*TWO_SEEDS))
    (row,) = find_means(table, "expression").to_dict("records")
    assert row["joint"] == pytest.approx(24 / 2 / 19) and row["single"] == pytest.approx(27 / 2 / 19)
    assert row["difference"] == pytest.approx(-3 / 2 / 19) and row["seeds"] == 2
    assert (row["joint_parameters"], row["single_parameters"], row["n"]) == (35, 40, 19)
    (row,) = find_means(table, "identity").to_dict("records")
    assert row["difference"] == pytest.approx(4 / 2 / 11)
    seeds = table[table["seed"].notna() & (table["split"] == "test") & (table["tested_on"] == "expression")]
    assert seeds.set_index("seed")["difference"].to_dict() == pytest.approx({1: -2 / 19, 2: -1 / 19})


def test_the_interval_is_that_of_crossed_seeds_and_images() -> None:
    """The right images of the two networks differ in two and in one image, whose weights decide on a resample."""
    (row,) = find_means(tabulate(make_fits(*TWO_SEEDS)), "expression").to_dict("records")
    stream = generator(3).spawn(2)[0]
    drawn = stream.integers(19, size=(400, 19))
    differences = np.zeros((2, 19))
    differences[0, 10:12], differences[1, 14] = -1, -1
    resampled = np.stack([differences[:, images].mean(axis=1) for images in drawn], axis=1)
    expected = bound_mean(differences.mean(axis=1), resampled, level=0.95)
    assert (row["low"], row["high"]) == pytest.approx(tuple(map(float, expected)))


def test_of_training_images_the_interval_is_over_seeds_and_of_one_seed_over_images() -> None:
    (row,) = find_means(tabulate(make_fits(*TWO_SEEDS)), "identity", "train").to_dict("records")
    assert row["difference"] == row["low"] == row["high"] == 0
    one = tabulate(make_fits(*TWO_SEEDS[::2]))
    (row,) = find_means(one, "expression").to_dict("records")
    assert row["seeds"] == 1 and row["low"] < -2 / 19 < row["high"] <= 0
    (row,) = find_means(one, "expression", "train").to_dict("records")
    assert math.isnan(row["low"])


def test_cells_are_compared_with_single_networks_of_equal_epochs_and_images() -> None:
    fits = make_fits(
        *TWO_SEEDS,
        make_rows("joint", 1, {"expression": 11, "identity": 9}, branch_after="conv1", weight=2.0),
        make_rows("joint", 1, {"expression": 5, "identity": 8}, images=30),
        make_rows("expression", 1, {"expression": 9}, images=30),
        make_rows("joint", 1, {"expression": 13, "identity": 8}, epochs=24),  # without rivals
    )
    table = tabulate(fits).set_index(["branch_after", "images", "epochs", "tested_on", "split"]).sort_index()
    branched = table.loc[("conv1", 0, 8, "expression", "test")]
    assert set(branched["difference"].round(9)) == {round(-1 / 19, 9)}
    scarce = table.loc[("", 30, 8, "expression", "test")]
    assert set(scarce["difference"].round(9)) == {round(-4 / 19, 9)}
    # the identity network is the one of all images
    assert set(table.loc[("", 30, 8, "identity", "test")]["difference"].round(9)) == {round(1 / 11, 9)}
    assert set(table.index.get_level_values("epochs")) == {8}


def test_every_width_that_has_both_networks_is_a_rival() -> None:
    narrow = (
        make_rows("expression", 1, {"expression": 4}, parameters=3, width=0.5),
        make_rows("identity", 1, {"identity": 3}, parameters=4, width=0.5),
        make_rows("identity", 1, {"identity": 3}, parameters=4, width=0.7),  # without its pair
    )
    table = find_means(tabulate(make_fits(*TWO_SEEDS, *narrow)), "identity")
    assert table["single_width"].tolist() == [1.0, 0.5] or table["single_width"].tolist() == [0.5, 1.0]
    row = table.set_index("single_width").loc[0.5]
    assert row["difference"] == pytest.approx(5 / 11) and row["single_parameters"] == 7 and row["seeds"] == 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(StudyError, match=r"two rows are about the same network: .*'seed': 2"):
        tabulate(make_fits(*TWO_SEEDS, TWO_SEEDS[1]))
    other = make_fits(*TWO_SEEDS)
    other.loc[(other["trained_on"] == "joint") & (other["tested_on"] == "identity"), "source"] = "others"
    with pytest.raises(StudyError, match="different faces for identity: source is toys and others"):
        tabulate(other)


def test_no_pairs_give_an_empty_table() -> None:
    assert tabulate(make_fits(*TWO_SEEDS[:4])).empty


def test_bits_are_those_of_the_images() -> None:
    correct = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 1], bool)
    np.testing.assert_array_equal(decode_correct(np.packbits(correct).tobytes().hex(), 10), correct)


def test_the_summary_has_a_line_per_cell_and_task() -> None:
    summary = summarise_sharing(tabulate(make_fits(*TWO_SEEDS)))
    assert summary.row_count == 2
    assert list(summary.columns[-2].cells) == ["-0.079", "+0.182"]
