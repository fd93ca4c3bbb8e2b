"""Preferred stimuli on disk: of every unit, the picture made for it, and the face that drives it most.

::

    preferred.json                  `PreferredHeader`: source, seed, sizes, layers per network, the shallowest first; digests
    <network>-<layer>-optimised.npy float32 (units, h, w) grey or (units, h, w, 3) RGB in [0, 1]; NaN for dead units
    <network>-<layer>-best.npy      uint8 (units, H, W) or (units, H, W, 3), as stored; 0 where no face drives the unit
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from facespec.study.artefacts import load_array, read_document
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import Block, Count, Seed
from facespec.study.vocabulary import Network

HEADER_FILE = "preferred.json"
REMEDY = "Remove the directory: `facespec repro` makes it again."


class PreferredLayer(Block):
    """A convolution's ReLU, by its dotted name: `depth` 1 is the shallowest."""

    name: str
    depth: Count
    units: Count


class PreferredHeader(Block):
    """`preferred.json`. Faces have `height` x `width` px and `channels`; the pictures made for units are what networks
    see: `size` x `size` px and `input_channels`.
    """

    version: Literal[2]  # 1 had no digests
    source: str
    seed: Seed
    height: Count
    width: Count
    channels: Literal[1, 3]
    size: Count
    input_channels: Literal[1, 3]
    layers: dict[Network, list[PreferredLayer]]
    digests: dict[str, str]


@dataclass(frozen=True, eq=False)
class PreferredSet:
    """The preferred stimuli of all networks of one seed; made by `PreferredSet.open`."""

    directory: Path
    header: PreferredHeader

    @classmethod
    def open(cls, directory: Path) -> PreferredSet:
        """Open `directory` without reading a picture; `StudyError`, naming the file, if something is wrong."""
        if not (directory / HEADER_FILE).is_file():
            raise StudyError(
                f"{directory}: no preferred stimuli here (no {HEADER_FILE} in it). `dvc repro preferred` makes them."
            )
        try:
            # JSON has no enumerations: names of networks become members only where the reader is not strict
            head = PreferredHeader.model_validate(read_document(directory / HEADER_FILE, remedy=REMEDY), strict=False)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the whole file"
            raise StudyError(
                f"{directory / HEADER_FILE}: {where}: {problem['msg']}. Make the preferred stimuli again."
            ) from None
        return cls(directory, head)

    @property
    def source(self) -> str:
        """Where the faces come from, as figures name it."""
        return self.header.source

    @property
    def seed(self) -> int:
        """Which replicate of the networks this is."""
        return self.header.seed

    def layers(self, network: Network | str) -> list[str]:
        """The network's layers, the shallowest first; `StudyError` for a network that is not there."""
        return [layer.name for layer in self._layers(network)]

    def optimised(self, network: Network | str, layer: str) -> npt.NDArray[np.float32]:
        """The pictures made for the units, (units, h, w) or (units, h, w, 3) in [0, 1]; NaN for dead units."""
        shape = self.header.size, self.header.size
        return self._array(network, layer, "optimised", np.float32, (*shape, *_colours(self.header.input_channels)))

    def best(self, network: Network | str, layer: str) -> npt.NDArray[np.uint8]:
        """The faces that drive the units most, (units, H, W) or (units, H, W, 3); 0 where none does."""
        shape = self.header.height, self.header.width
        return self._array(network, layer, "best", np.uint8, (*shape, *_colours(self.header.channels)))

    def _layers(self, network: Network | str) -> list[PreferredLayer]:
        if network not in self.header.layers:
            known = suggest_spelling(str(network), map(str, self.header.layers))
            raise StudyError(f"{self.directory}: no preferred stimuli of network {str(network)!r}: {known}")
        return self.header.layers[Network(network)]

    def _array(
        self, network: Network | str, layer: str, what: str, dtype: type[np.generic], shape: tuple[int, ...]
    ) -> np.ndarray:
        units = {own.name: own.units for own in self._layers(network)}
        if layer not in units:
            raise StudyError(
                f"{self.directory}: no preferred stimuli of layer {layer!r}: {suggest_spelling(layer, units)}"
            )
        name, wanted = name_preferred_file(network, layer, what), (units[layer], *shape)
        path = self.directory / name
        array = load_array(path, self.header.digests.get(name), remedy=REMEDY)
        if array.shape != wanted or array.dtype != dtype:
            raise StudyError(
                f"{path}: {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} {wanted}. Make it again."
            )
        return array


def name_preferred_file(network: Network | str, layer: str, what: str) -> str:
    """The name of the file that holds the ``optimised`` pictures or the ``best`` faces of one layer."""
    return f"{Network(network).value}-{layer}-{what}.npy"


def _colours(channels: int) -> tuple[int, ...]:
    return () if channels == 1 else (channels,)
