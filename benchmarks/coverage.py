"""Which interval of a mean over few networks, all tested on the same faces, keeps its promise?

    python benchmarks/coverage.py

Simulates studies whose truth is known, computes nominal 95 % intervals in several ways, and counts how many include the
truth: for numbers that are normal, with several ratios of the variance between seeds, that of the faces and their
interaction, and for differences of accuracies, up to the ceiling. An interval is *sufficient* if its coverage is at
least .93 in every cell; that with the smallest mean width of these is marked. Prints Markdown, which is recorded in
`docs/intervals.md`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from facespec.checks.crossed import bound_mean, bound_over_seeds, split_variance
from facespec.study.seeds import generator

LEVEL, REQUIRED = 0.95, 0.93
SEEDS = (3, 5, 10)
PEOPLE, IMAGES = 70, 490  # of the probe faces; held-out images
RESAMPLES = 1000
SHARED = (0.0, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # share of one network's variance that comes from the faces
INTERACTIONS = (0.0, 0.5, 1.0)  # share of the rest that is specific to a network and a face
ACCURACIES = ((0.55, 0.55), (0.90, 0.88), (0.985, 0.978))  # of the two networks compared; the last as published
SEED_SPREADS = (0.0, 0.1, 0.3)  # sd between seeds, on the probit scale, where faces have an sd of 1
AT_ONCE = 250  # studies

Bounds = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Studies:
    """Numbers of simulated studies of one kind: `means` (studies, seeds), `resampled` (studies, seeds, resamples)."""

    means: np.ndarray
    resampled: np.ndarray
    truth: float


class Draws:
    """Seeds and resamples of a hierarchical bootstrap, the same in all studies of a cell."""

    def __init__(self, seeds: int, draws: int, random: np.random.Generator) -> None:
        self.seeds = random.integers(seeds, size=(draws, seeds))
        self.resamples = random.integers(RESAMPLES, size=(draws, 1))

    def take_means(self, values: np.ndarray) -> np.ndarray:
        """Means (studies, draws) of `values` (studies, seeds, resamples)."""
        return values[:, self.seeds, self.resamples].mean(axis=-1)


def centre(studies: Studies) -> np.ndarray:
    return studies.means.mean(axis=-1)


def find_percentiles(values: np.ndarray) -> Bounds:
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=-1)
    return low, high


def bootstrap(studies: Studies, draws: Draws) -> Bounds:
    return find_percentiles(draws.take_means(studies.resampled))


def bootstrap_rescaled(studies: Studies, draws: Draws) -> Bounds:
    """Seeds moved away from their mean, so that a draw's variance is unbiased (Rao & Wu 1988)."""
    seeds = studies.means.shape[-1]
    deviations = studies.means - studies.means.mean(axis=-1, keepdims=True)
    more = (np.sqrt(seeds / (seeds - 1)) - 1) * deviations
    return find_percentiles(draws.take_means(studies.resampled + more[..., None]))


def bootstrap_t(studies: Studies, draws: Draws) -> Bounds:
    """Percentiles of (draw - mean) / (standard error of the draw); no variance in a draw gives an infinite bound."""
    _, shared = split_variance(studies.means, studies.resampled)
    drawn = studies.means[:, draws.seeds]
    error = np.sqrt(drawn.var(axis=-1, ddof=1) / drawn.shape[-1] + shared[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (draws.take_means(studies.resampled) - centre(studies)[:, None]) / error
        low, high = find_percentiles(np.nan_to_num(t, nan=0.0, posinf=1e9, neginf=-1e9))
    total = np.sqrt(studies.means.var(axis=-1, ddof=1) / drawn.shape[-1] + shared)
    return centre(studies) - high * total, centre(studies) - low * total


def t_over_seeds(studies: Studies, _: Draws) -> Bounds:
    return bound_over_seeds(studies.means, level=LEVEL)


def _split_variance(studies: Studies) -> tuple[np.ndarray, np.ndarray, int]:
    """Spread and shared part of the variance of the mean, and the number of seeds."""
    spread, shared = split_variance(studies.means, studies.resampled)
    return spread, shared, studies.means.shape[-1]


def _add(studies: Studies, half: np.ndarray) -> Bounds:
    return centre(studies) - half, centre(studies) + half


def _satterthwaite(spread: np.ndarray, shared: np.ndarray, seeds: int) -> np.ndarray:
    """Half widths by Welch's and Satterthwaite's degrees of freedom, infinite for the faces."""
    total = spread + shared
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.nan_to_num((seeds - 1) * total**2 / spread**2, nan=np.inf, posinf=np.inf)  # 0 / 0: no variance
    return stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(total)


def satterthwaite(studies: Studies, _: Draws) -> Bounds:
    """Hillis 2007, after Obuchowski & Rockette 1995."""
    return _add(studies, _satterthwaite(*_split_variance(studies)))


def satterthwaite_resampled(studies: Studies, _: Draws) -> Bounds:
    """The variance of the mean over resamples as it is: the interaction counts twice."""
    spread, _shared, seeds = _split_variance(studies)
    return _add(studies, _satterthwaite(spread, studies.resampled.mean(axis=-2).var(axis=-1, ddof=1), seeds))


def quadrature(studies: Studies, _: Draws) -> Bounds:
    """Half widths of both parts added in quadrature (Howe 1974; Zou & Donner 2008)."""
    spread, shared, seeds = _split_variance(studies)
    tail = (1 + LEVEL) / 2
    return _add(studies, np.sqrt(stats.t.ppf(tail, seeds - 1) ** 2 * spread + stats.norm.ppf(tail) ** 2 * shared))


def cochran_cox(studies: Studies, _: Draws) -> Bounds:
    return bound_mean(studies.means, studies.resampled, level=LEVEL)


CANDIDATES: dict[str, Callable[[Studies, Draws], Bounds]] = {
    "hierarchical bootstrap, percentiles": bootstrap,
    "the same, seeds rescaled": bootstrap_rescaled,
    "hierarchical bootstrap-t": bootstrap_t,
    "t over seeds": t_over_seeds,
    "t, Satterthwaite": satterthwaite,
    "t, Satterthwaite, interaction twice": satterthwaite_resampled,
    "t, Cochran & Cox": cochran_cox,
    "both parts in quadrature": quadrature,
}


def draw_weights(units: int, random: np.random.Generator) -> np.ndarray:
    """Weights (units, resamples) of bootstrap draws of faces."""
    return random.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).T / units


def simulate_normal(
    shared: float, interaction: float, *, seeds: int, studies: int, random: np.random.Generator
) -> Iterator[Studies]:
    """Studies of 70 people; one network's number has variance 1, of which people and interaction have the given shares.

    The truth is 0. `interaction` is a share of what is not shared.
    """
    weights = draw_weights(PEOPLE, random)
    specific = (1 - shared) * interaction
    for _ in range(studies // AT_ONCE):
        values = random.standard_normal((AT_ONCE, seeds, 1)) * np.sqrt(1 - shared - specific)
        values = values + random.standard_normal((AT_ONCE, 1, PEOPLE)) * np.sqrt(shared * PEOPLE)
        values += random.standard_normal((AT_ONCE, seeds, PEOPLE)) * np.sqrt(specific * PEOPLE)
        yield Studies(values.mean(axis=-1), values @ weights, 0.0)


def simulate_accuracies(
    accuracies: tuple[float, float], spread: float, *, seeds: int, studies: int, random: np.random.Generator
) -> Iterator[Studies]:
    """Differences of the accuracies of two networks on 490 images that are hard or easy for both, and for each.

    An image is answered correctly if the sum of a constant, a seed's, an image's, a network's and image's and a
    residual number is positive; all are normal, so that the expected accuracy is known.
    """
    weights = draw_weights(IMAGES, random)
    constants = stats.norm.ppf(accuracies) * np.sqrt(spread**2 + 1 + 0.5**2 + 1)
    for _ in range(studies // AT_ONCE):
        images = random.standard_normal((AT_ONCE, 1, IMAGES))
        correct = []
        for constant in constants:
            values = constant + spread * random.standard_normal((AT_ONCE, seeds, 1)) + images
            values = values + 0.5 * random.standard_normal((AT_ONCE, 1, IMAGES))
            correct.append(values + random.standard_normal((AT_ONCE, seeds, IMAGES)) > 0)
        difference = correct[0].astype(np.float64) - correct[1]
        yield Studies(difference.mean(axis=-1), difference @ weights, accuracies[0] - accuracies[1])


def measure(parts: Iterator[Studies], draws: Draws) -> dict[str, tuple[float, float]]:
    """Candidate -> coverage, and median half width as a multiple of that of an interval with known variance."""
    included: dict[str, list[np.ndarray]] = {name: [] for name in CANDIDATES}
    widths: dict[str, list[np.ndarray]] = {name: [] for name in CANDIDATES}
    errors = []
    for studies in parts:
        errors.append(centre(studies) - studies.truth)
        for name, candidate in CANDIDATES.items():
            low, high = candidate(studies, draws)
            tolerance = 1e-12  # a bound that is the truth itself includes it
            included[name].append((low - tolerance <= studies.truth) & (studies.truth <= high + tolerance))
            widths[name].append((high - low) / 2)
    known = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(np.mean(np.concatenate(errors) ** 2))
    return {
        name: (float(np.concatenate(included[name]).mean()), float(np.median(np.concatenate(widths[name])) / known))
        for name in CANDIDATES
    }


def list_cells(seeds: int, studies: int) -> Iterator[tuple[str, Iterator[Studies]]]:
    """Label and studies of every cell of the grid."""
    for shared, interaction in itertools.product(SHARED, INTERACTIONS):
        if shared == 1 and interaction > 0:
            continue  # nothing is left to interact
        specific = (1 - shared) * interaction
        label = f"normal, {1 - shared - specific:.3g} : {shared:.3g} : {specific:.3g}"
        random = generator(0, "normal", seeds, label)
        yield label, simulate_normal(shared, interaction, seeds=seeds, studies=studies, random=random)
    for accuracies, spread in itertools.product(ACCURACIES, SEED_SPREADS):
        label = f"accuracies, {accuracies[0]:g} and {accuracies[1]:g}, seeds {spread:g}"
        random = generator(0, "accuracies", seeds, label)
        yield label, simulate_accuracies(accuracies, spread, seeds=seeds, studies=studies, random=random)


def format_cells(results: dict[tuple[int, str], dict[str, tuple[float, float]]]) -> Iterator[str]:
    """One row per cell and number of seeds: coverage of every candidate."""
    yield f"| numbers, seeds : faces : interaction | seeds | {' | '.join(CANDIDATES)} |"
    yield f"|{'---|' * (len(CANDIDATES) + 2)}"
    for (seeds, label), row in results.items():
        yield f"| {label} | {seeds} | {' | '.join(f'{coverage:.3f}' for coverage, _ in row.values())} |"


def format_summary(results: dict[tuple[int, str], dict[str, tuple[float, float]]]) -> Iterator[str]:
    """One row per candidate: smallest coverage by number of seeds, mean width; marks the narrowest sufficient one."""
    seeds = sorted({number for number, _ in results})
    lowest = {
        name: [min(row[name][0] for (number, _), row in results.items() if number == wanted) for wanted in seeds]
        for name in CANDIDATES
    }
    width = {name: float(np.mean([row[name][1] for row in results.values()])) for name in CANDIDATES}
    sufficient = [name for name in CANDIDATES if min(lowest[name]) >= REQUIRED]
    best = min(sufficient, key=width.__getitem__, default="")
    headings = " | ".join(f"lowest coverage, {number} seeds" for number in seeds)
    yield f"| interval | {headings} | mean width | at least {REQUIRED:g} everywhere |"
    yield f"|{'---|' * (len(seeds) + 3)}"
    for name in CANDIDATES:
        verdict = "yes, narrowest" if name == best else "yes" if name in sufficient else "no"
        mean = f"{width[name]:.2f}" if width[name] < 100 else "unbounded"
        yield f"| {name} | {' | '.join(f'{value:.3f}' for value in lowest[name])} | {mean} | {verdict} |"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000, help=f"per cell, a multiple of {AT_ONCE}")
    parser.add_argument("--draws", type=int, default=1000, help="of a bootstrap")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args(words)
    begin = time.perf_counter()
    results = {}
    for seeds in options.seeds:
        draws = Draws(seeds, options.draws, generator(0, "draws", seeds))
        for label, parts in list_cells(seeds, options.studies):
            results[seeds, label] = measure(parts, draws)
    error = np.sqrt(REQUIRED * (1 - REQUIRED) / options.studies)
    print("\n".join(format_summary(results)))
    print(
        f"\n{len(results)} cells of {options.studies} studies (standard error of a coverage near .93: {error:.3f}), "
        f"{options.draws} bootstrap draws, {RESAMPLES} resamples of the faces; {time.perf_counter() - begin:.0f} s.\n"
    )
    print("\n".join(format_cells(results)))


if __name__ == "__main__":
    main()
