"""Which parts of a face do networks use? Facial biomarkers: the mass of heatmaps, region by region.

The *share* of a region is the part of a heatmap's mass that lies in it; its *density* is that share divided by the
region's share of the picture: 1 for a uniform map. Maps are raw, because scaling would change the shares of mean maps.
A map without any mass is *blank*: counted, and left out. A region that is absent from a picture has share 0 there and
no density. Images are averaged within people; intervals are over people and seeds [O].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
# each pair itself, then the joint network minus each single-task one: indices into `PAIRS`
CONTRASTS: tuple[tuple[int, int | None], ...] = (
    *((pair, None) for pair in range(len(PAIRS))),
    *((PAIRS.index((Network.JOINT, task)), PAIRS.index((Network(task.value), task))) for task in TASKS),
)


@dataclass(frozen=True, eq=False)
class RegionShares:
    """The distribution of the mass of n heatmaps over regions.

    `share` (n, seeds, pairs, regions) is NaN for blank maps, pairs are those of `study.vocabulary.PAIRS`; `area`
    (n, regions) is the regions' share of each picture; `labels` (`study.tables.LABELS`) has n rows. `names` are those
    of the regions, `regions` is their origin: "label maps" or "template".
    """

    share: Floats
    area: Floats
    labels: pd.DataFrame
    names: tuple[str, ...]
    source: str
    regions: str


def make_region_template(size: tuple[int, int], face: FaceBox) -> tuple[Bytes, dict[str, int]]:
    """Regions of a frontal face by the classical canon, (H, W) uint8, and the codes of their names [O].

    `face` is the head from crown to chin and from side to side, as shares of the image. Vertically, Loomis's head
    (1956, Drawing the Head and Hands) is three and a half units high: half a unit of hair, then three equal parts that
    end at brows, nose base and chin; the eyes are at half its height, and the mouth is a third below the nose base.
    Horizontally it is five eye widths wide; the width of the nose is the distance between the eyes, and the mouth is
    half as wide again: the neoclassical canons of Farkas et al. (1985, Plastic and Reconstructive Surgery 75:328-338),
    who also measured that few people meet them exactly. Ours [O]: heights of brows, eyes and mouth; brows rest on their
    line; hair is the area above the eyes between head and face, less than most people have.
    """
    height, width = size
    y = ((np.arange(height) + 0.5) / height - face.top) / (face.bottom - face.top)
    x = ((np.arange(width) + 0.5) / width - face.left) / (face.right - face.left)
    masks = _make_canon(np.abs(x - 0.5)[None, :], y[:, None])
    codes = np.full(size, CODES["background"], np.uint8)
    for name, inside in masks.items():
        codes[inside] = CODES[name]
    return codes, {name: CODES[name] for name in ("background", *masks)}


def _make_canon(x: Floats, y: Floats) -> dict[str, npt.NDArray[np.bool_]]:
    """Mask of each region, later ones over earlier ones; `x` from the middle in head widths, `y` from the crown."""
    unit = 1 / 3.5
    hairline, brows, nose_base = 0.5 * unit, 1.5 * unit, 2.5 * unit
    below_eyes = (y - 0.5) / (nose_base - 0.5)

    def draw_ellipse(x_centre: float, y_centre: float, *, width: float, height: float) -> npt.NDArray[np.bool_]:
        return ((x - x_centre) / (width / 2)) ** 2 + ((y - y_centre) / (height / 2)) ** 2 <= 1

    return {
        "hair": draw_ellipse(0.0, 0.5, width=1.0, height=1.0) & (y <= 0.5),
        "outline": draw_ellipse(0.0, (hairline + 1) / 2, width=1.0, height=1 - hairline),
        "brows": draw_ellipse(0.2, brows - 0.035, width=0.25, height=0.07),
        "eyes": draw_ellipse(0.2, 0.5, width=0.2, height=0.1),
        "nose": (below_eyes >= 0) & (below_eyes <= 1) & (x <= 0.05 + 0.05 * below_eyes),
        "mouth": draw_ellipse(0.0, nose_base + unit / 3, width=0.3, height=0.1),
    }


def measure_region_shares(maps: np.ndarray, regions: np.ndarray, codes: Mapping[str, int]) -> Floats:
    """Measure the share of each heatmap's mass that lies in each region.

    Parameters
    ----------
    maps : array of shape (n, h, w)
        Raw heatmaps, not negative; they are brought to the size of the label maps.
    regions : uint8 array of shape (n, H, W)
        Label maps: the code of the region of every pixel.
    codes : mapping of str to int
        Region name to code, in 0 ... 255.

    Returns
    -------
    float64 array of shape (n, n_regions)
        Shares in the order of `codes`, which sum to 1; NaN for blank maps.

    Raises
    ------
    StudyError
        For a pixel whose code is not in `codes`.

    Examples
    --------
    >>> regions = np.array([[[0, 0, 1], [0, 1, 1]]], np.uint8)
    >>> maps = np.array([[[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]]])
    >>> measure_region_shares(maps, regions, {"background": 0, "eyes": 1})
    array([[0.25, 0.75]])
    """
    mass = _sum_regions(regions, codes, weights=upsample_maps(maps, (regions.shape[1], regions.shape[2])))
    total = mass.sum(axis=1, keepdims=True)
    return np.where(total > 0, mass, np.nan) / np.where(total > 0, total, 1.0)


def measure_region_areas(regions: np.ndarray, codes: Mapping[str, int]) -> Floats:
    """The share of each image's pixels in each region, float64 (n, n_regions); as in `measure_region_shares`."""
    return _sum_regions(regions, codes, weights=None) / (regions.shape[1] * regions.shape[2])


def _sum_regions(regions: np.ndarray, codes: Mapping[str, int], *, weights: Floats | None) -> Floats:
    """Sums of `weights` (n, H, W), or the numbers of pixels, per image and region."""
    n, n_regions = len(regions), len(codes)
    index_of_code = np.full(256, n_regions)
    index_of_code[list(codes.values())] = np.arange(n_regions)
    indices = index_of_code[regions]
    if (indices == n_regions).any():
        raise StudyError(f"a region map holds code {regions[indices == n_regions][0]}; allowed: {dict(codes)}.")
    indices += n_regions * np.arange(n)[:, None, None]
    flat = None if weights is None else weights.ravel()
    return np.bincount(indices.ravel(), flat, minlength=n * n_regions).reshape(n, n_regions).astype(np.float64)


def tabulate_regions(regions: RegionShares, *, draws: int, generator: np.random.Generator) -> pd.DataFrame:
    """The REGIONS table: every pair, and joint minus single-task networks, per expression, region and measure.

    `number` is the mean over seeds and people; `low` and `high` bound its 95 % interval over `draws` bootstrap draws of
    both. Draws are shared by all networks, so that differences are paired. `people` and `n` images have a number in at
    least one seed (of both networks, for a difference); `blank` maps, over all seeds (and both networks), have no mass.
    """
    with np.errstate(invalid="ignore"):
        density = regions.share / regions.area[:, None, None]  # 0 / 0 is NaN: the region is absent from the picture
    values = np.stack([regions.share, density], axis=-1)
    groups = ("all", *EXPRESSIONS)
    rows: list[dict[str, Any]] = []
    # a stream per group of images: one that is absent must not shift the draws of the next
    for group, stream in zip(groups, generator.spawn(len(groups)), strict=True):
        in_group = np.ones(len(values), bool) if group == "all" else regions.labels["expression"].eq(group).to_numpy()
        rows += [
            row | {"expression": str(group)}
            for row in _tabulate_group(
                regions, values, in_group, absent=f"no image shows {group}", draws=draws, generator=stream
            )
        ]
    common = {"source": regions.source, "regions": regions.regions, "seeds": regions.share.shape[1]}
    return REGIONS.check(pd.DataFrame(rows).assign(**common))


def _tabulate_group(
    regions: RegionShares,
    values: Floats,
    in_group: np.ndarray,
    *,
    absent: str,
    draws: int,
    generator: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Rows of one group of images; `values` are (n, seeds, pairs, regions, measures), `in_group` bool (n,)."""
    values = np.where(in_group[:, None, None, None, None], values, np.nan)
    # subtracted image by image: an image with a blank map counts for neither side
    differences = np.stack(
        [values[:, :, pair] - (0 if other is None else values[:, :, other]) for pair, other in CONTRASTS], 2
    )
    by_person = np.swapaxes(average_people(differences, regions.labels["identity"]), 0, 1)
    number, low, high = estimate_interval(by_person, draws=draws, generator=generator)
    blank = np.isnan(values[in_group][..., 0, 0]).sum(axis=(0, 1))  # (pairs,)
    n_images = (~np.isnan(differences)).any(axis=1).sum(axis=0)  # (contrasts, regions, measures)
    n_people = (~np.isnan(by_person)).any(axis=0).sum(axis=0)
    for index in np.ndindex(*n_images.shape):
        contrast, region, measure = index
        pair, other = CONTRASTS[contrast]
        trained_on, tested_on = PAIRS[pair]
        reason = explain_few_people(n_people[index])
        if not n_images[index]:
            has_mass = n_images[contrast, region, 0] > 0
            reason = "no image shows this region" if has_mass else "no heatmap has any mass"
        yield {
            "trained_on": trained_on.value,
            "tested_on": tested_on.value,
            "region": regions.names[region],
            "measure": MEASURES[measure],
            "against": "" if other is None else "single",
            "people": n_people[index],
            "n": n_images[index],
            "blank": blank[pair] + (0 if other is None else blank[other]),
            "number": number[index],
            "low": low[index],
            "high": high[index],
            "reason": reason if in_group.any() else absent,
        }
