"""How do images become the input of a network? The settings of it, which travel with the network's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from facespec.study.errors import StudyError


@dataclass(frozen=True)
class Preset:
    """How images become network input (`data.batches.apply_preset`); stored with the weights (`models.checkpoints`).

    Images are resized (`resize`: shorter side in px; None: they already have `size`), cropped to `size` px, shifted by
    up to `shift` px in each direction (edge pixels repeated), flipped left-right with probability 1/2 if `flip`,
    turned grey with `grey_probability`, scaled to [0, 1], and normalised by `mean` and `std`. At test time nothing is
    random: images are resized, cropped at the centre and normalised.
    """

    name: str
    size: int
    channels: int
    resize: int | None
    shift: int
    flip: bool
    grey_probability: float
    mean: float = 0.5  # [L]
    std: float = 0.5  # [L]

    def __post_init__(self) -> None:
        """Refuse numbers that make no input; presets also come from files."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise StudyError(f"preset {self.name!r}: mean {self.mean} and std {self.std}; both finite, std above 0.")
