"""Which parts of a face does a network look at? Facial biomarkers: the mass of its heatmaps, region by region.

The *share* of a region is the part of a heatmap's mass that lies in it; its *density* is that share divided by the
region's share of the picture: 1 where the network looks as much as anywhere. Maps are taken raw, because scaling them
would move mass. A map without any mass is *blank*: counted, and left out. A region that a picture does not show has
share 0 there and no density. Images are averaged within people, people and seeds are what intervals are over [O].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import average_people, estimate_interval, explain_few_people
from facespec.data.embedded.canvas import REGIONS as CODES
from facespec.study.errors import StudyError
from facespec.study.maps import upsample_maps
from facespec.study.params import FaceBox
from facespec.study.tables import REGIONS
from facespec.study.vocabulary import EXPRESSIONS, PAIRS, TASKS, Network

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

MEASURES = ("share", "density")
# the network itself, then the joint network minus each single-task one: places in `PAIRS`
SIDES: tuple[tuple[int, int | None], ...] = (
    *((place, None) for place in range(len(PAIRS))),
    *((PAIRS.index((Network.JOINT, task)), PAIRS.index((Network(task.value), task))) for task in TASKS),
)


@dataclass(frozen=True, eq=False)
class RegionShares:
    """Where the mass of n heatmaps lies.

    `share` (n, seeds, pairs, regions) is NaN for blank maps, pairs are those of `study.vocabulary.PAIRS`; `area`
    (n, regions) is the regions' share of each picture; `labels` (`study.tables.LABELS`) has n rows. `names` are those
    of the regions, `regions` says whence they come: "label maps" or "template".
    """

    share: Floats
    area: Floats
    labels: pd.DataFrame
    names: tuple[str, ...]
    source: str
    regions: str


def make_region_template(size: tuple[int, int], face: FaceBox) -> tuple[Bytes, dict[str, int]]:
    """Regions of a frontal face by the classical canon, (H, W) uint8, and the names of their codes [O].

    `face` is the head from crown to chin and from side to side, as shares of the image. Vertically, Loomis's head
    (1956, Drawing the Head and Hands) is three and a half units high: half a unit of hair, then three equal parts that
    end at brows, nose base and chin; the eyes halve it, and the mouth lies a third below the nose base. Horizontally it
    is five eye widths wide; the nose is as wide as the eyes are apart, and the mouth half as wide again: the
    neoclassical canons of Farkas et al. (1985, Plastic and Reconstructive Surgery 75:328-338), who also measured that
    few people meet them exactly. Ours [O]: heights of brows, eyes and mouth; brows rest on their line; hair is what
    lies above the eyes between head and face, less than most people have.
    """
    height, width = size
    y = ((np.arange(height) + 0.5) / height - face.top) / (face.bottom - face.top)
    x = ((np.arange(width) + 0.5) / width - face.left) / (face.right - face.left)
    parts = _canon(np.abs(x - 0.5)[None, :], y[:, None])
    codes = np.full(size, CODES["background"], np.uint8)
    for name, inside in parts.items():
        codes[inside] = CODES[name]
    return codes, {name: CODES[name] for name in ("background", *parts)}


def _canon(x: Floats, y: Floats) -> dict[str, npt.NDArray[np.bool_]]:
    """Where each region is, the later over the earlier; `x` from the middle in head widths, `y` from the crown."""
    unit = 1 / 3.5
    hairline, brows, nose_base = 0.5 * unit, 1.5 * unit, 2.5 * unit
    below_eyes = (y - 0.5) / (nose_base - 0.5)

    def ellipse(across: float, down: float, *, wide: float, high: float) -> npt.NDArray[np.bool_]:
        return ((x - across) / (wide / 2)) ** 2 + ((y - down) / (high / 2)) ** 2 <= 1

    return {
        "hair": ellipse(0.0, 0.5, wide=1.0, high=1.0) & (y <= 0.5),
        "outline": ellipse(0.0, (hairline + 1) / 2, wide=1.0, high=1 - hairline),
        "brows": ellipse(0.2, brows - 0.035, wide=0.25, high=0.07),
        "eyes": ellipse(0.2, 0.5, wide=0.2, high=0.1),
        "nose": (below_eyes >= 0) & (below_eyes <= 1) & (x <= 0.05 + 0.05 * below_eyes),
        "mouth": ellipse(0.0, nose_base + unit / 3, wide=0.3, high=0.1),
    }


def measure_region_shares(maps: np.ndarray, regions: np.ndarray, codes: Mapping[str, int]) -> Floats:
    """The share of each map's mass in each region, float64 (n, regions) in the order of `codes`; NaN for blank maps.

    `maps` (n, h, w) are raw heatmaps, not negative, and are brought to the size of the label maps `regions`
    (n, H, W) uint8. Raises `StudyError` for a pixel whose code is not in `codes`.
    """
    mass = _sums(regions, codes, weights=upsample_maps(maps, (regions.shape[1], regions.shape[2])))
    total = mass.sum(axis=1, keepdims=True)
    return np.where(total > 0, mass, np.nan) / np.where(total > 0, total, 1.0)


def measure_region_areas(regions: np.ndarray, codes: Mapping[str, int]) -> Floats:
    """The share of each picture's pixels in each region, float64 (n, regions); `regions` as in `measure_region_shares`."""
    return _sums(regions, codes, weights=None) / (regions.shape[1] * regions.shape[2])


def _sums(regions: np.ndarray, codes: Mapping[str, int], *, weights: Floats | None) -> Floats:
    """Sums of `weights` (n, H, W), or the numbers of pixels, per image and region."""
    n, many = len(regions), len(codes)
    place = np.full(256, many)
    place[list(codes.values())] = np.arange(many)
    at = place[regions]
    if (at == many).any():
        raise StudyError(f"a region map holds code {regions[at == many][0]}; allowed: {dict(codes)}.")
    at += many * np.arange(n)[:, None, None]
    flat = None if weights is None else weights.ravel()
    return np.bincount(at.ravel(), flat, minlength=n * many).reshape(n, many).astype(np.float64)


def tabulate_regions(found: RegionShares, *, draws: int, generator: np.random.Generator) -> pd.DataFrame:
    """The REGIONS table: every pair, and joint minus single-task networks, per expression, region and measure.

    `number` is the mean over seeds and people; `low` and `high` bound its 95 % interval over `draws` bootstrap draws of
    both. Draws are shared by all networks, so that differences are paired. `people` and `n` images have a number in at
    least one seed (of both networks, for a difference); `blank` maps, over all seeds (and both networks), have no mass.
    """
    with np.errstate(invalid="ignore"):
        density = found.share / found.area[:, None, None]  # 0 / 0 is NaN: the picture does not show the region
    values = np.stack([found.share, density], axis=-1)
    groups = ("all", *EXPRESSIONS)
    rows: list[dict[str, Any]] = []
    # a stream per group of images: one that is absent must not shift the draws of the next
    for group, stream in zip(groups, generator.spawn(len(groups)), strict=True):
        shown = np.ones(len(values), bool) if group == "all" else found.labels["expression"].eq(group).to_numpy()
        rows += _rows(
            found,
            np.where(shown[:, None, None, None, None], values, np.nan),
            shown,
            draws=draws,
            generator=stream,
            group=str(group),
        )
    common = {"source": found.source, "regions": found.regions, "seeds": found.share.shape[1]}
    return REGIONS.check(pd.DataFrame(rows).assign(**common))


def _rows(
    found: RegionShares, values: Floats, shown: np.ndarray, *, draws: int, generator: np.random.Generator, group: str
) -> list[dict[str, Any]]:
    """Rows of one group of images; `values` (n, seeds, pairs, regions, measures) are NaN for the others."""
    # subtracted image by image: a blank map takes its image from both sides
    each = np.stack([values[:, :, own] - (0 if other is None else values[:, :, other]) for own, other in SIDES], 2)
    compared = np.swapaxes(average_people(each, found.labels["identity"]), 0, 1)
    number, low, high = estimate_interval(compared, draws=draws, generator=generator)
    blank = np.isnan(values[shown][..., 0, 0]).sum(axis=(0, 1))  # (pairs,)
    rows = []
    for side, (own, other) in enumerate(SIDES):
        trained_on, tested_on = PAIRS[own]
        n = (~np.isnan(each[:, :, side])).any(axis=1).sum(axis=0)  # (regions, measures)
        counted = (~np.isnan(compared[:, :, side])).any(axis=0).sum(axis=0)
        for region, measure in np.ndindex(*n.shape):
            rows.append(
                {
                    "trained_on": trained_on.value,
                    "tested_on": tested_on.value,
                    "expression": group,
                    "region": found.names[region],
                    "measure": MEASURES[measure],
                    "against": "" if other is None else "single",
                    "people": counted[region, measure],
                    "n": n[region, measure],
                    "blank": blank[own] + (0 if other is None else blank[other]),
                    "number": number[side, region, measure],
                    "low": low[side, region, measure],
                    "high": high[side, region, measure],
                    "reason": explain_few_people(counted[region, measure])
                    if n[region, measure]
                    else _reason(mass=n[region, 0] > 0, images=bool(shown.any()), group=group),
                }
            )
    return rows


def _reason(*, mass: bool, images: bool, group: str) -> str:
    """Why a number is missing."""
    if not images:
        return f"no image shows {group}"
    return "no image shows this region" if mass else "no heatmap has any mass"
