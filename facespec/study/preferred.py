"""How are preferred stimuli stored on disk? Per unit: an optimised image, and the face with the strongest response.

::

    preferred.json                  `PreferredHeader`: source, seed, sizes, layers (shallowest first), digests
    <network>-<layer>-optimised.npy float32 (units, h, w) grey or (units, h, w, 3) RGB in [0, 1]; NaN for dead units
    <network>-<layer>-best.npy      uint8 (units, H, W) or (units, H, W, 3), as stored; 0 if no face drives the unit
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Strict

from facespec.study.artefacts import REMAKE_DIRECTORY, load_array, read_header
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import Block, Count, Seed
from facespec.study.vocabulary import Network

HEADER_FILE = "preferred.json"


class PreferredLayer(Block):
    """A convolution's ReLU, by its dotted name; `depth` 1 is the shallowest."""

    name: str
    depth: Count
    units: Count


class PreferredHeader(Block):
    """The content of ``preferred.json``.

    Faces have `height` x `width` px and `channels`. Optimised images have the size of the networks' input: `size` x
    `size` px and `input_channels`.
    """

    version: Literal[2]  # 1 had no digests
    source: str
    seed: Seed
    height: Count
    width: Count
    channels: Literal[1, 3]
    size: Count
    input_channels: Literal[1, 3]
    layers: dict[Annotated[Network, Strict(False)], list[PreferredLayer]]  # in JSON, networks are texts
    digests: dict[str, str]


@dataclass(frozen=True, eq=False)
class PreferredSet:
    """The preferred stimuli of all networks of one seed, read from disk as they are used.

    Made by `PreferredSet.open`.

    Attributes
    ----------
    directory : pathlib.Path
        The directory that holds the files.
    header : PreferredHeader
        The content of ``preferred.json``.

    Examples
    --------
    >>> import tempfile
    >>> from facespec.study.artefacts import digest_files, write_document
    >>> folder = tempfile.TemporaryDirectory()
    >>> directory = Path(folder.name)
    >>> np.save(directory / name_preferred_file("joint", "trunk.relu1", "best"), np.zeros((4, 48, 48), np.uint8))
    >>> header = {"version": 2, "source": "toy", "seed": 1, "height": 48, "width": 48, "channels": 1, "size": 48,
    ...           "input_channels": 1, "layers": {"joint": [{"name": "trunk.relu1", "depth": 1, "units": 4}]},
    ...           "digests": digest_files(directory)}
    >>> write_document(directory / "preferred.json", header)
    >>> stimuli = PreferredSet.open(directory)
    >>> stimuli.layers("joint"), stimuli.best("joint", "trunk.relu1").shape
    (['trunk.relu1'], (4, 48, 48))
    >>> folder.cleanup()
    """

    directory: Path
    header: PreferredHeader

    @classmethod
    def open(cls, directory: Path) -> PreferredSet:
        """Open `directory` without reading an image; raises `StudyError` if its header is absent or not valid."""
        header = read_header(directory / HEADER_FILE, PreferredHeader, content="preferred stimuli", stage="preferred")
        return cls(directory, header)

    @property
    def source(self) -> str:
        """The source of the faces, as figures name it."""
        return self.header.source

    @property
    def seed(self) -> int:
        """The seed of the networks."""
        return self.header.seed

    def layers(self, network: Network | str) -> list[str]:
        """Return the names of the network's layers, shallowest first; raises `StudyError` for an unknown network."""
        return list(self._count_units(network))

    def optimised(self, network: Network | str, layer: str) -> npt.NDArray[np.float32]:
        """Return the layer's optimised images, (units, h, w) or (units, h, w, 3) in [0, 1]; NaN for dead units.

        Raises `StudyError` for an unknown network or layer, and for an absent, altered or misshapen file.
        """
        header = self.header
        return self._load(network, layer, "optimised", np.float32, (header.size, header.size), header.input_channels)

    def best(self, network: Network | str, layer: str) -> npt.NDArray[np.uint8]:
        """Return the faces that drive the units most, (units, H, W) or (units, H, W, 3); 0 if none does.

        Raises `StudyError` as `optimised` does.
        """
        header = self.header
        return self._load(network, layer, "best", np.uint8, (header.height, header.width), header.channels)

    def _count_units(self, network: Network | str) -> dict[str, int]:
        """Return the number of units by layer."""
        if network not in self.header.layers:
            allowed = suggest_spelling(str(network), map(str, self.header.layers))
            raise StudyError(f"{self.directory}: no preferred stimuli of network {str(network)!r}: {allowed}")
        return {layer.name: layer.units for layer in self.header.layers[Network(network)]}

    def _load(
        self, network: Network | str, layer: str, kind: str, dtype: type, size: tuple[int, int], channels: int
    ) -> np.ndarray:
        units = self._count_units(network)
        if layer not in units:
            raise StudyError(
                f"{self.directory}: no preferred stimuli of layer {layer!r}: {suggest_spelling(layer, units)}"
            )
        name = name_preferred_file(network, layer, kind)
        array = load_array(self.directory / name, self.header.digests.get(name), remedy=REMAKE_DIRECTORY)
        shape = (units[layer], *size) if channels == 1 else (units[layer], *size, channels)
        if array.shape != shape or array.dtype != dtype:
            raise StudyError(
                f"{self.directory / name}: {array.dtype} of shape {array.shape}, "
                f"expected {np.dtype(dtype)} {shape}. Make it again."
            )
        return array


def name_preferred_file(network: Network | str, layer: str, kind: str) -> str:
    """Return the name of the file that holds one layer's stimuli of a `kind`: ``optimised`` or ``best``."""
    return f"{Network(network).value}-{layer}-{kind}.npy"
