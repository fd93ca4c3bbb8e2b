from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facespec.figures.bars import Bar, make_accuracy_panel, make_reference_panel
from facespec.published.reference import read_reference_accuracy
from facespec.study.errors import StudyError

CELLS = [("expression", "expression"), ("expression", "identity"), ("identity", "expression"), ("identity", "identity")]


def table(figure: str = "1B", seeds: tuple[int, ...] = (7, 3), resamples: int = 130) -> pd.DataFrame:
    """Four cells; every number its own, so that none can stand for another."""
    values = np.random.default_rng(5)
    rows = []
    for trained_on, tested_on in CELLS:
        for seed in seeds:
            for resample in range(-1, resamples):
                rows.append(
                    {
                        "figure": figure,
                        "trained_on": trained_on,
                        "tested_on": tested_on,
                        "role": "probe",
                        "source": "embedded faces",
                        "seed": seed,
                        "resample": resample,
                        "n": 35,
                        "chance": 1 / 7 if tested_on == "expression" else 0.05,
                        "accuracy": values.uniform(0.2, 0.9),
                    }
                )
    return pd.DataFrame(rows)


def bar(panel: object, trained_on: str, tested_on: str) -> Bar:
    (found,) = [b for b in panel.bars if (b.trained_on, b.tested_on) == (trained_on, tested_on)]
    return found


@pytest.mark.parametrize("trained_on, tested_on", CELLS)
def test_sound_bars(trained_on: str, tested_on: str) -> None:
    whole = table()
    mine = whole[(whole["trained_on"] == trained_on) & (whole["tested_on"] == tested_on)]
    found = bar(make_accuracy_panel(whole, "1B"), trained_on, tested_on)
    on_images = {seed: mine[(mine["seed"] == seed) & (mine["resample"] == -1)]["accuracy"].item() for seed in (3, 7)}
    assert found.dots == (on_images[3], on_images[7])
    assert found.mean == pytest.approx((on_images[3] + on_images[7]) / 2)
    low, high = np.percentile(mine[mine["resample"] >= 0]["accuracy"], [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.source, found.n) == ("embedded faces", 35)
    assert found.chance == (1 / 7 if tested_on == "expression" else 0.05)


def test_without_the_accuracy_on_the_images_the_mean_of_resamples_stands_for_it() -> None:
    whole = table().query("resample >= 0")
    found = bar(make_accuracy_panel(whole, "1B"), "identity", "expression")
    mine = whole[(whole["trained_on"] == "identity") & (whole["tested_on"] == "expression")]["accuracy"]
    assert found.mean == pytest.approx(np.mean(mine)) and found.dots == ()


def test_without_resamples_there_is_no_interval() -> None:
    found = bar(make_accuracy_panel(table().query("resample == -1"), "1B"), "identity", "expression")
    assert found.low == found.high == found.mean == np.mean(found.dots)


def test_rows_may_come_in_any_order() -> None:
    shuffled = table().sample(frac=1, random_state=1)
    assert make_accuracy_panel(shuffled, "1B") == make_accuracy_panel(table(), "1B")


def test_published_bars_are_the_first_seeds_first_hundred() -> None:
    whole = table()
    panel = make_accuracy_panel(whole, "1B", style="published", generator=np.random.default_rng(1))
    mine = whole[(whole["seed"] == 7) & whole["resample"].between(0, 99)]
    for found in panel.bars:
        values = mine[(mine["trained_on"] == found.trained_on) & (mine["tested_on"] == found.tested_on)]["accuracy"]
        assert found.mean == pytest.approx(np.mean(values)) and found.dots == ()
        # theory: the mean of 100 draws is normal, with standard error sd / 10; 1000 draws fix its quantiles to 8 %
        error = np.std(values) / 10
        np.testing.assert_allclose(
            [found.low, found.high], found.mean + 1.96 * error * np.array([-1, 1]), atol=0.25 * error
        )


def test_published_intervals_are_a_tenth_of_the_sound_ones() -> None:
    whole = table().query("seed == 7 and 0 <= resample < 100")
    sound = make_accuracy_panel(whole, "1B")
    published = make_accuracy_panel(whole, "1B", style="published", generator=np.random.default_rng(1))
    for one, other in zip(sound.bars, published.bars, strict=True):
        assert 0.07 < (other.high - other.low) / (one.high - one.low) < 0.14


def test_equal_generators_draw_equal_bars() -> None:
    one, same, other = (
        make_accuracy_panel(table(), "1B", style="published", generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_reference_bars_are_the_published_numbers() -> None:
    panel = make_reference_panel(read_reference_accuracy(), "1B")
    assert len(panel.bars) == 4 and panel.style == "sound"
    assert bar(panel, "expression", "identity") == Bar(
        "expression", "identity", "KDEF", 490, 1 / 70, 0.34051, 0.298929, 0.384745
    )
    assert {b.figure for b in [make_reference_panel(read_reference_accuracy(), "S1B")]} == {"S1B"}


def test_sources_come_from_the_table() -> None:
    assert make_accuracy_panel(table(), "1B").sources == "embedded faces"
    assert make_reference_panel(read_reference_accuracy(), "1C").sources == "KDEF"
    assert (
        make_reference_panel(read_reference_accuracy(), "S1A").sources == "FER2013 (expression), VoxCeleb1 (identity)"
    )
    mixed = table()
    mixed.loc[(mixed["tested_on"] == "identity") & (mixed["trained_on"] == "identity"), "source"] = "KDEF"
    assert make_accuracy_panel(mixed, "1B").sources == "embedded faces (expression), KDEF and embedded faces (identity)"


def refusal(**changes: object) -> str:
    arguments = {"table": table(), "figure": "1B"} | changes
    with pytest.raises(StudyError) as caught:
        make_accuracy_panel(arguments.pop("table"), arguments.pop("figure"), **arguments)
    return str(caught.value)


def test_refusals() -> None:
    assert refusal(figure="1D") == "no figure '1D' of accuracies: did you mean '1C'? Allowed: '1B', '1C', 'S1A', 'S1B'."
    assert refusal(figure="1C") == "figure 1C: the table has no rows of it; it has ['1B']."
    assert refusal(style="publishd") == "style 'publishd': did you mean 'published'? Allowed: 'sound', 'published'."
    assert refusal(style="published") == "style 'published' resamples: it needs a generator."
    alone = table().query("resample == -1")
    assert refusal(table=alone, style="published", generator=np.random.default_rng(1)) == (
        "figure 1B: style 'published' draws resamples of the first seed; the table has none."
    )
    two_studies = pd.concat([table(), table().assign(seed=9, n=40)])
    assert refusal(table=two_studies) == (
        "figure 1B, expression network tested on expression: one bar, but column 'n' holds [35, 40]. "
        "Draw one study at a time."
    )
