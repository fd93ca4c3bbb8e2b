from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from facespec.figures.bars import Bar, Panel, make_accuracy_panel, make_reference_panel
from facespec.published.reference import read_reference_accuracy
from facespec.study.errors import StudyError
from facespec.study.tables import ACCURACY
from toys import combine, make_table

CELLS = [("expression", "expression"), ("expression", "identity"), ("identity", "expression"), ("identity", "identity")]


def accuracies() -> pd.DataFrame:
    """Four bars of two seeds; all numbers differ."""
    rows = combine(trained_on=["expression", "identity"], tested_on=["expression", "identity"], seed=[7, 3])
    rows = [row | {"resample": resample} for row in rows for resample in range(-1, 130)]
    table = make_table(ACCURACY, rows, figure="1B", source="embedded faces", n=35)
    chance = table["tested_on"].map({"expression": 1 / 7, "identity": 0.05})
    return table.assign(chance=chance, accuracy=np.random.default_rng(5).uniform(0.2, 0.9, len(table)))


def get_bar(panel: Panel, trained_on: str, tested_on: str) -> Bar:
    (bar,) = [bar for bar in panel.bars if (bar.trained_on, bar.tested_on) == (trained_on, tested_on)]
    return bar


def select(table: pd.DataFrame, bar: Bar) -> pd.DataFrame:
    return table[(table["trained_on"] == bar.trained_on) & (table["tested_on"] == bar.tested_on)]


@pytest.mark.parametrize("names", CELLS)
def test_sound_bars_are_means_over_seeds_with_intervals_over_resamples(names: tuple[str, str]) -> None:
    bar = get_bar(make_accuracy_panel(accuracies(), "1B"), *names)
    rows = select(accuracies(), bar)
    per_seed = [rows.query("seed == @seed and resample == -1")["accuracy"].item() for seed in (3, 7)]
    assert bar.per_seed == tuple(per_seed) and bar.mean == pytest.approx(sum(per_seed) / 2)
    bounds = np.percentile(rows[rows["resample"] >= 0]["accuracy"], [2.5, 97.5])
    assert (bar.low, bar.high) == pytest.approx(tuple(bounds))
    assert (bar.source, bar.n, bar.chance) == ("embedded faces", 35, 1 / 7 if names[1] == "expression" else 0.05)


def test_without_the_accuracy_on_the_images_the_bar_is_the_mean_of_the_resamples() -> None:
    table = accuracies().query("resample >= 0")
    bar = get_bar(make_accuracy_panel(table, "1B"), "identity", "expression")
    assert bar.mean == pytest.approx(np.mean(select(table, bar)["accuracy"])) and bar.per_seed == ()


def test_without_resamples_there_is_no_interval() -> None:
    bar = get_bar(make_accuracy_panel(accuracies().query("resample == -1"), "1B"), "identity", "expression")
    assert bar.low == bar.high == bar.mean == np.mean(bar.per_seed)


def test_rows_may_come_in_any_order() -> None:
    assert make_accuracy_panel(accuracies().sample(frac=1, random_state=1), "1B") == make_accuracy_panel(
        accuracies(), "1B"
    )


def test_published_bars_are_the_first_hundred_resamples_of_the_first_seed() -> None:
    rows = accuracies().query("seed == 7 and 0 <= resample < 100")
    panel = make_accuracy_panel(accuracies(), "1B", style="published", generator=np.random.default_rng(1))
    sound = make_accuracy_panel(rows, "1B")
    assert len(panel.bars) == 4
    for bar, sound_bar in zip(panel.bars, sound.bars, strict=True):
        values = select(rows, bar)["accuracy"]
        assert bar.mean == pytest.approx(np.mean(values)) and bar.per_seed == ()
        # theory: the mean of 100 draws is normal, with standard error sd / 10; 1000 draws fix its quantiles to 8 %
        error = np.std(values) / 10
        bounds = bar.mean + 1.96 * error * np.array([-1, 1])
        np.testing.assert_allclose([bar.low, bar.high], bounds, atol=0.25 * error)
        assert 0.07 < (bar.high - bar.low) / (sound_bar.high - sound_bar.low) < 0.14  # a tenth


def test_equal_generators_draw_equal_bars() -> None:
    one, same, other = (
        make_accuracy_panel(accuracies(), "1B", style="published", generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_reference_bars_are_the_published_numbers() -> None:
    panel = make_reference_panel(read_reference_accuracy(), "1B")
    assert (len(panel.bars), panel.style, panel.figure) == (4, "sound", "1B")
    assert get_bar(panel, "expression", "identity") == Bar(
        "expression", "identity", "KDEF", 490, 1 / 70, 0.34051, 0.298929, 0.384745
    )


def test_sources_are_the_tables() -> None:
    mixed = accuracies()
    mixed.loc[(mixed["tested_on"] == "identity") & (mixed["trained_on"] == "identity"), "source"] = "KDEF"
    reference = read_reference_accuracy()
    assert [
        make_accuracy_panel(accuracies(), "1B").sources,
        make_accuracy_panel(mixed, "1B").sources,
        make_reference_panel(reference, "1C").sources,
        make_reference_panel(reference, "S1A").sources,
    ] == [
        "embedded faces",
        "embedded faces (expression), KDEF and embedded faces (identity)",
        "KDEF",
        "FER2013 (expression), VoxCeleb1 (identity)",
    ]


def make_all_rows(**changes: Any) -> pd.DataFrame:
    """Tables of 1B and 1C with baselines and zero-shot transfer."""
    decoders = [("1B", name, task) for name in ("untrained", "pixels", "pixels_nearest") for task in TASK_NAMES]
    heads = [("1C", network, task) for network, task in PAIR_NAMES]
    zero_shot = [("1C zero-shot", network, "expression") for network in ("expression", "joint")]
    rows = [
        {"figure": figure, "trained_on": trained_on, "tested_on": task, "seed": seed, "resample": resample}
        for figure, trained_on, task in (*decoders, *heads, *zero_shot)
        for seed in (7, 3)
        for resample in range(-1, 130)
    ]
    table = make_table(ACCURACY, rows, source="embedded faces", n=35)
    table = table.assign(accuracy=np.random.default_rng(6).uniform(0.2, 0.9, len(table)))
    for column, value in changes.items():
        table.loc[table["trained_on"] == "pixels", column] = value
    return pd.concat([accuracies(), table], ignore_index=True)


TASK_NAMES = ("expression", "identity")
PAIR_NAMES = [("expression", "expression"), ("joint", "expression"), ("identity", "identity"), ("joint", "identity")]


@pytest.mark.parametrize("figure", ["1B", "1C"])
def test_baselines_are_those_of_the_same_faces(figure: str) -> None:
    """1C has those of 1B."""
    panel = make_accuracy_panel(make_all_rows(), figure)
    means = make_all_rows().query("figure == '1B' and resample == -1").groupby(["trained_on", "tested_on"])["accuracy"]
    expected = {key: mean for key, mean in means.mean().items() if key[0] in ("untrained", "pixels", "pixels_nearest")}
    assert {(bar.trained_on, bar.tested_on): bar.mean for bar in panel.baselines} == pytest.approx(expected)
    assert len(panel.bars) == 4 and {bar.trained_on for bar in panel.bars} <= {"expression", "identity", "joint"}
    for change in ({"source": "KDEF"}, {"n": 36}):
        others = make_accuracy_panel(make_all_rows(**change), figure).baselines
        assert {bar.trained_on for bar in others} == {"untrained", "pixels_nearest"}


def test_only_1C_has_networks_before_fine_tuning() -> None:
    table = make_all_rows()
    before = make_accuracy_panel(table, "1C").zero_shot
    means = table.query("figure == '1C zero-shot' and resample == -1").groupby("trained_on")["accuracy"].mean()
    assert {bar.trained_on: bar.mean for bar in before} == pytest.approx(means.to_dict())
    assert make_accuracy_panel(table, "1B").zero_shot == ()


def test_published_style_and_older_tables_have_trained_networks_only() -> None:
    published = [
        make_accuracy_panel(table, "1B", style="published", generator=np.random.default_rng(1))
        for table in (accuracies(), make_all_rows())
    ]
    assert published[0] == published[1]
    assert make_accuracy_panel(accuracies(), "1B") == replace(make_accuracy_panel(make_all_rows(), "1B"), baselines=())


RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"figure": "1D"}, "no figure '1D' of accuracies: did you mean '1C'"),
        ({"figure": "1C"}, r"figure 1C: the table has no rows of it; it has \['1B'\]"),
        (
            {"figure": "1C", "table": make_all_rows().query("figure != '1C'")},
            r"figure 1C: the table has no rows of it; it has \['1B', '1C zero-shot'\]",
        ),
        ({"style": "publishd"}, "style 'publishd': did you mean 'published'"),
        ({"style": "published"}, "style 'published' resamples: it needs a generator"),
        (
            {"table": accuracies().query("resample == -1"), "style": "published", "generator": RNG},
            "style 'published' draws resamples of the first seed; the table has none",
        ),
        (
            {"table": pd.concat([accuracies(), accuracies().assign(seed=9, n=40)])},
            r"expression network tested on expression: one bar, but column 'n' holds \[35, 40\]. Draw one study",
        ),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make_accuracy_panel(**{"table": accuracies(), "figure": "1B"} | arguments)
