"""The intervals of the claims against simulated studies whose truth is known: `benchmarks/coverage.py`, reduced."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from facespec.checks.intervals import Rule, estimate_intervals
from facespec.study.seeds import generator

JUDGES, BOOTSTRAP, OVER_SEEDS = "t, Cochran & Cox", "hierarchical bootstrap, percentiles", "t over seeds"
SATTERTHWAITE = "t, Satterthwaite"
STUDIES = 2000  # three standard errors of a coverage of .93 are .017


@pytest.fixture(scope="module")
def coverage(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/coverage.py")


def measure(
    coverage: ModuleType, shared: float, interaction: float, *, seeds: int, studies: int = STUDIES
) -> dict[str, float]:
    random = generator(3, "reduced", seeds)
    parts = coverage.simulate_normal(shared, interaction, seeds=seeds, studies=studies, random=random)
    results = coverage.measure(parts, coverage.Draws(seeds, 200, generator(4)))
    return {name: included for name, (included, _) in results.items()}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("shared", "interaction"), [(0.0, 0.0), (0.03, 0.0), (0.25, 0.5), (0.9, 0.0)])
def test_the_interval_that_judges_keeps_its_promise(
    coverage: ModuleType, shared: float, interaction: float, seeds: int
) -> None:
    assert measure(coverage, shared, interaction, seeds=seeds)[JUDGES] > 0.93 - 0.01


def test_the_intervals_beside_it_do_not(coverage: ModuleType) -> None:
    """The bootstrap's is too narrow for three seeds, t over seeds where most of the variance comes from the faces."""
    differing_seeds, hard_faces = (measure(coverage, shared, 0.0, seeds=3) for shared in (0.03, 0.9))
    assert differing_seeds[BOOTSTRAP] < 0.85 and hard_faces[OVER_SEEDS] < 0.6
    assert differing_seeds[SATTERTHWAITE] < differing_seeds[JUDGES]


def test_the_simulated_studies_have_the_variances_they_name(coverage: ModuleType) -> None:
    """One network's number has variance 1: a quarter from the faces, and of the rest half from the interaction."""
    parts = coverage.simulate_normal(0.25, 0.5, seeds=4, studies=4000, random=generator(5))
    means = np.concatenate([studies.means for studies in parts])
    assert means.var() == pytest.approx(1, rel=0.1)
    assert np.cov(means.T)[np.triu_indices(4, 1)].mean() == pytest.approx(0.25, rel=0.15)
    parts = coverage.simulate_accuracies((0.9, 0.88), 0.3, seeds=3, studies=1000, random=generator(6))
    assert np.concatenate([studies.means for studies in parts]).mean() == pytest.approx(0.02, abs=0.006)


def test_the_program_measures_the_intervals_that_the_claims_use(coverage: ModuleType) -> None:
    (studies,) = coverage.simulate_normal(0.3, 0.4, seeds=3, studies=coverage.AT_ONCE, random=generator(7))
    draws = coverage.Draws(3, 4000, generator(8))
    bounds = {name: np.transpose(coverage.CANDIDATES[name](studies, draws)) for name in coverage.CANDIDATES}
    for study in range(3):
        values = np.concatenate([studies.means[study][:, None], studies.resampled[study]], axis=1)
        (interval,) = estimate_intervals(values[None], Rule(0.95, 4000), generator=generator(9))
        np.testing.assert_allclose([interval.low, interval.high], bounds[JUDGES][study])
        np.testing.assert_allclose([interval.seeds_low, interval.seeds_high], bounds[OVER_SEEDS][study])
        drawn = [interval.bootstrap_low, interval.bootstrap_high]
        np.testing.assert_allclose(drawn, bounds[BOOTSTRAP][study], atol=0.1)  # other draws


def test_the_summary_marks_the_narrowest_of_the_sufficient(
    coverage: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {(3, "cell"): dict.fromkeys(coverage.CANDIDATES, (0.9, 1.0))}
    results[3, "cell"] |= {JUDGES: (0.95, 1.4), SATTERTHWAITE: (0.93, 1.5)}
    rows = dict(line.strip("| ").split(" | ", 1) for line in list(coverage.format_summary(results))[2:])
    assert rows[JUDGES] == "0.950 | 1.40 | yes, narrowest" and rows[SATTERTHWAITE] == "0.930 | 1.50 | yes"
    assert rows[BOOTSTRAP] == "0.900 | 1.00 | no"
    coverage.main(["--studies", str(coverage.AT_ONCE), "--draws", "20", "--seeds", "3"])
    printed = capsys.readouterr().out
    assert printed.count("\n| normal, ") == 22 and printed.count("\n| accuracies, ") == 9
