"""Preferred stimuli known in closed form: edges, blobs, gratings, colours; nothing is drawn for the dead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facespec.analyses.preferred import PreferredStimuli, Recipe, optimise_stimuli
from facespec.data.batches import Preset
from facespec.models.device import deterministic_torch
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.params import NetworkBlock
from facespec.study.seeds import generator

GREY = Preset("toy", 13, 1, resize=None, shift=1, flip=True, grey_probability=0.0)
SHORT = Recipe(steps=6, starts=3, batch_size=3)
TASKS = {"expression": 7, "identity": 5}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with deterministic_torch():
        yield


def made(seed: int = 1, *, channels: int = 1, widths: tuple[int, ...] = (4, 6), **block: Any) -> FaceNetwork:
    """A network whose batch norm has seen images; `block` overrides parts of its description."""
    described = {"trunk": "small_vgg", "channels": list(widths), "convolutions": 1, "branch_after": None} | block
    draw = torch.Generator().manual_seed(seed)
    network = build_network(NetworkBlock(**described), TASKS, channels=channels, generator=draw).train()
    network(torch.rand((9, channels, 13, 13), generator=draw) * 2 - 1)
    return network.eval()


def plain(network: FaceNetwork) -> FaceNetwork:
    """The network with batch norm that changes nothing."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.eps = 0.0
    return network


def found(network: FaceNetwork, layer: str, units: Any, recipe: Recipe = SHORT, **changes: Any) -> PreferredStimuli:
    seed = changes.pop("seed", 5)
    streams = {unit: generator(seed, layer, unit) for unit in units}
    how = {"preset": replace(GREY, channels=network.channels), "device": torch.device("cpu")} | changes
    return optimise_stimuli(network, layer, streams, recipe=recipe, **how)


def hand_weighted(kernels: np.ndarray) -> FaceNetwork:
    """A network whose unit i of conv2 is linear in 5x5 pixels, with weights `kernels[i]`; relu2 rectifies it.

    Nine units of conv1 hand on the image shifted by a pixel each way, lifted by 1 so that their ReLU changes nothing.
    """
    network = plain(made(widths=(9,), convolutions=2))
    trunk: Any = network.trunk
    with torch.no_grad():
        trunk.conv1.weight.copy_(torch.eye(9).view(9, 1, 3, 3))
        trunk.norm1.bias.fill_(1.0)
        trunk.conv2.weight.zero_()
        for unit, kernel in enumerate(kernels):
            for row, column in np.ndindex(5, 5):
                near = np.clip([row - 2, column - 2], -1, 1)
                far = np.array([row - 2, column - 2]) - near
                channel = int((far[0] + 1) * 3 + far[1] + 1)
                trunk.conv2.weight[unit, channel, near[0] + 1, near[1] + 1] = float(kernel[row, column])
        trunk.norm2.bias.copy_(-trunk.conv2.weight.sum(dim=(1, 2, 3)))  # take the lift back
    return network


def known_pictures() -> np.ndarray:
    """Kernels (6, 5, 5): edges at 0, 45, 90 and 135 degrees, a bright and a dark blob."""
    y, x = np.mgrid[-2:3, -2:3]
    envelope = np.exp(-(x**2 + y**2) / 4)
    edges = [envelope * (np.cos(angle) * x + np.sin(angle) * y) for angle in np.deg2rad([0, 45, 90, 135])]
    blob = np.exp(-(x**2 + y**2) / 2) - 0.25
    return np.array([*edges, blob, -blob])


@pytest.mark.parametrize("layer", ["trunk.norm2", "trunk.relu2"])
@pytest.mark.parametrize("moves", [0.0, 1.0])
def test_an_edge_and_a_blob_are_recovered(layer: str, moves: float) -> None:
    """A linear unit in the centre prefers white where its weights are positive and black where they are negative."""
    kernels = known_pictures()
    still = Recipe("centre", steps=96, shift=moves / 16, scale=moves / 10, turn=moves * 10, starts=2, batch_size=6)
    got = found(hand_weighted(kernels), layer, range(6), still)
    patches = got.images[:, 4:9, 4:9].reshape(6, -1)
    correlation = np.corrcoef(patches, np.sign(kernels.round(9)).reshape(6, -1))[:6, 6:]
    assert (np.diag(correlation) > 0.9).all(), np.diag(correlation).round(2)
    assert (correlation.argmax(axis=1) == np.arange(6)).all()
    # the largest response any picture can give, all pixels at -1 or 1
    np.testing.assert_allclose(got.response, np.abs(kernels).sum(axis=(1, 2)), rtol=0.06)
    assert (got.response <= np.abs(kernels).sum(axis=(1, 2)) + 1e-4).all()


def orientation(pictures: np.ndarray) -> np.ndarray:
    """Degrees in [0, 180): mean direction in which pictures (n, size, size) vary, weighted by power."""
    size = pictures.shape[1]
    power = np.abs(np.fft.fft2(pictures - pictures.mean(axis=(1, 2), keepdims=True))) ** 2
    down, right = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    doubled = (power * np.exp(2j * np.arctan2(down, right))).sum(axis=(1, 2))  # a grating has no sense of direction
    return np.rad2deg(np.angle(doubled)) / 2 % 180


def test_an_edge_all_over_the_map_is_a_grating_across_it() -> None:
    """Stripes let an edge respond in many places; they vary in the direction in which its kernel does.

    A kernel that sums to zero has a drive of mean zero but for the border: the mean of its positive part is at most
    half the most that any cell can get.
    """
    kernels = known_pictures()[:4]
    got = found(
        hand_weighted(kernels), "trunk.relu2", range(4), preset=replace(GREY, size=32), recipe=Recipe(batch_size=4)
    )
    off = (orientation(got.images) - [0, 45, 90, 135] + 90) % 180 - 90
    assert (np.abs(off) < 10).all(), off.round(1)
    most = np.abs(kernels).sum(axis=(1, 2)) / 2
    assert (got.response > 0.4 * most).all() and (got.response < 1.2 * most).all(), (got.response / most).round(2)
    assert (got.response > 3 * got.baseline).all()


def test_a_colour_is_recovered() -> None:
    """A unit that reads single pixels prefers full light where its weight is positive and none where it is negative."""
    weights = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -0.7], [0.6, -1, 1]])
    network = plain(made(channels=3, widths=(5,)))
    with torch.no_grad():
        network.trunk.conv1.weight.zero_()
        network.trunk.conv1.weight[:, :, 1, 1] = torch.tensor(weights, dtype=torch.float32)
    got = found(network, "trunk.norm1", range(5), Recipe(batch_size=5))
    colours = got.images.mean(axis=(1, 2))
    assert ((colours > 0.5) == (weights > 0)).all(), colours.round(2)
    assert (np.diag(np.corrcoef(colours, np.sign(weights))[:5, 5:]) > 0.95).all(), colours.round(2)


def biased(*biases: float) -> FaceNetwork:
    """Units of conv1 that read the centre pixel of [-1, 1]; relu1 lets the part above -bias through."""
    network = plain(made(widths=(len(biases),)))
    with torch.no_grad():
        network.trunk.conv1.weight.zero_()
        network.trunk.conv1.weight[:, 0, 1, 1] = 1.0
        network.trunk.norm1.bias.copy_(torch.tensor(biases))
    return network


@pytest.mark.parametrize("objective", ["map", "centre"])
@pytest.mark.parametrize("layer", ["trunk.relu1", "trunk.average"])
def test_dead_units_are_told_and_not_drawn(objective: Any, layer: str) -> None:
    """Unit 0 responds at once; 1 is silent at all starts and wakes; 2 never can; 3 and 4 are not listening."""
    network = biased(0.5, -0.6, -1.5, 0.5, 0.0)
    with torch.no_grad():
        network.trunk.conv1.weight[3] = 0.0
        network.trunk.conv1.weight[4] *= 1e-20
        network.trunk.norm1.bias[4] = 0.25
    got = found(network, layer, range(5), Recipe(objective, starts=4, batch_size=5))
    assert got.dead.tolist() == [False, False, True, True, True]
    assert got.start[0] > 0 and got.start[1:3].tolist() == [0, 0]
    assert got.baseline[1:3].tolist() == [0, 0]
    assert got.response[1] > 0.1 and got.response[2] == 0
    assert got.response[3:].tolist() == got.start[3:].tolist() == got.baseline[3:].tolist() == [0.5, 0.25]
    assert np.isnan(got.images[2:]).all() and np.isfinite(got.images[:2]).all()


def test_without_a_relu_a_negative_response_is_alive() -> None:
    got = found(biased(-1.5), "trunk.norm1", [0], replace(SHORT, steps=60))
    assert not got.dead[0] and got.start[0] < got.response[0] - 0.5 < 0
