"""Preferred stimuli: known ones are found, every objective rises, units are independent, the network is restored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facespec.analyses.preferred import PreferredStimuli, Recipe, optimise_stimuli
from facespec.data.batches import Preset
from facespec.models.device import deterministic_torch
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.recording import record_responses
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.seeds import generator

GREY = Preset("toy", 13, 1, resize=None, shift=1, flip=True, grey_probability=0.0)
SHORT = Recipe(steps=6, starts=3, batch_size=3)
TASKS = {"expression": 7, "identity": 5}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with deterministic_torch():
        yield


def make_network(seed: int = 1, *, channels: int = 1, widths: tuple[int, ...] = (4, 6), **changes: Any) -> FaceNetwork:
    """A network with batch statistics of images; `changes` override parts of its description."""
    block = {"trunk": "small_vgg", "channels": list(widths), "convolutions": 1, "branch_after": None} | changes
    random = torch.Generator().manual_seed(seed)
    network = build_network(NetworkBlock(**block), TASKS, channels=channels, generator=random).train()
    network(torch.rand((9, channels, 13, 13), generator=random) * 2 - 1)
    return network.eval()


def optimise(network: FaceNetwork, layer: str, units: Any, recipe: Recipe = SHORT, **changes: Any) -> PreferredStimuli:
    seed = changes.pop("seed", 5)
    streams = {unit: generator(seed, layer, unit) for unit in units}
    options = {"preset": replace(GREY, channels=network.channels), "device": torch.device("cpu")} | changes
    return optimise_stimuli(network, layer, streams, recipe=recipe, **options)


def respond(network: FaceNetwork, layer: str, images: np.ndarray) -> np.ndarray:
    """Responses of all units of `layer` to pictures in [0, 1], by a forward pass of the whole network."""
    pictures = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    with record_responses(network, [layer]) as responses, torch.no_grad():
        network((pictures - GREY.mean) / GREY.std)
    return responses[layer].numpy()


LAYERS = [
    "trunk.conv1",
    "trunk.norm1",
    "trunk.relu1",
    "branches.identity.pool1",
    "branches.identity.conv2",
    "branches.identity.norm2",
    "branches.expression.relu2",
    "branches.identity.average",
    "heads.identity",
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("objective", ["map", "centre"])
@pytest.mark.parametrize("channels", [1, 3])
def test_responses_are_those_of_the_network(layer: str, objective: str, channels: int) -> None:
    """Of any layer: mean over the map or its centre, as a forward pass of the whole network gives it."""
    network = make_network(channels=channels, branch_after="conv1")
    units = [3, 0, 1, 2]
    result = optimise(network, layer, units, replace(SHORT, objective=objective))
    alive = ~result.dead
    assert result.images.shape == (4, 13, 13) + (() if channels == 1 else (3,)) and result.images.dtype == np.float32
    assert alive.any() and result.images[alive].min() >= 0 and result.images[alive].max() <= 1
    responses = respond(network, layer, result.images[alive])
    if responses.ndim == 4:
        centre = responses[:, :, responses.shape[2] // 2, responses.shape[3] // 2]
        responses = centre if objective == "centre" else responses.mean(axis=(2, 3))
    expected = responses[np.arange(alive.sum()), np.array(units)[alive]]
    np.testing.assert_allclose(result.response[alive], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.units, units)


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    layer=st.sampled_from(LAYERS),
    channels=st.sampled_from([1, 3]),
    objective=st.sampled_from(["map", "centre"]),
    size=st.sampled_from([11, 14, 17]),
)
def test_every_objective_rises(seed: int, layer: str, channels: int, objective: Any, size: int) -> None:
    """Above the start, which is the best of the random ones, except for dead units."""
    network = make_network(seed, channels=channels, branch_after="conv1")
    recipe = Recipe(objective, steps=24, starts=3, batch_size=4)
    preset = replace(GREY, size=size, channels=channels)
    result = optimise(network, layer, range(4), recipe, preset=preset, seed=seed)
    alive = ~result.dead
    assert (result.response > result.start)[alive].all()
    assert (result.start >= result.baseline - 1e-6).all()
    assert (result.course[:, -4:].mean(axis=1) > result.course[:, :4].mean(axis=1))[alive].all()
    assert np.isfinite(result.images[alive]).all() and np.isnan(result.images[result.dead]).all()


FIELDS = ("units", "images", "response", "start", "baseline", "course", "dead")


@settings(max_examples=6)
@given(st.permutations(range(6)), st.integers(1, 6), st.sampled_from([13, 16]))
def test_a_picture_does_not_depend_on_the_other_units(order: list[int], n: int, size: int) -> None:
    """Alone, with others, at another position, in another batch: bit-equal at 16 px, equal up to rounding at 13."""
    network, preset = make_network(), replace(GREY, size=size)
    alone = optimise(network, "trunk.relu2", [4], preset=preset)
    together = optimise(network, "trunk.relu2", dict.fromkeys([*order[:n], 4]), preset=preset)
    position = together.units.tolist().index(4)
    for name in FIELDS:
        one, other = getattr(alone, name)[0], getattr(together, name)[position]
        if size == 16:
            np.testing.assert_array_equal(one, other, err_msg=name)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)


def test_other_batch_sizes_differ_by_rounding_only() -> None:
    network = make_network()
    one, other = (optimise(network, "trunk.relu2", range(6), replace(SHORT, batch_size=size)) for size in (1, 5))
    np.testing.assert_allclose(one.images, other.images, atol=1e-3)  # rounding errors grow over the steps
    np.testing.assert_allclose(one.response, other.response, rtol=1e-3)


def test_equal_streams_give_equal_pictures_and_other_streams_others() -> None:
    network = make_network()
    one, again, other = (optimise(network, "trunk.relu2", range(3), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.images, again.images)
    assert (np.abs(one.images - other.images).max(axis=(1, 2)) > 0.01).all()
    assert len(np.unique(one.start)) == 3


def test_nothing_above_the_layer_is_computed() -> None:
    class ForbiddenModule(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            raise AssertionError("computed")

    network = make_network(branch_after="conv1")
    for name in ("relu2", "average"):
        setattr(network.branches["expression"], name, ForbiddenModule())
    network.branches["identity"], network.heads["expression"] = nn.Sequential(ForbiddenModule()), ForbiddenModule()
    assert optimise(network, "branches.expression.norm2", [0, 5]).response.shape == (2,)
    with pytest.raises(AssertionError, match="computed"):
        optimise(network, "branches.expression.average", [0])


def test_the_scale_of_responses_does_not_matter() -> None:
    """Adam normalises gradients: a unit with responses a million times smaller has the same picture."""
    network = make_network()
    large = optimise(network, "trunk.relu2", range(6))
    with torch.no_grad():
        network.trunk.norm2.weight.mul_(1e-6)
        network.trunk.norm2.bias.mul_(1e-6)
    small = optimise(network, "trunk.relu2", range(6))
    np.testing.assert_allclose(small.images, large.images, atol=1e-3)
    np.testing.assert_allclose(small.response, large.response * 1e-6, rtol=1e-3)


def test_the_network_is_restored() -> None:
    network = make_network().train()
    network.trunk.norm1.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.trunk.conv2.weight.register_hook(lambda _: pytest.fail("gradient of a parameter"))
    optimise(network, "trunk.relu2", [1, 2])
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("layer", "units", "changes", "message"),
    [
        ("trunk.relu2", [0, 6], {}, "layer 'trunk.relu2' has units 0 ... 5, got 6."),
        ("trunk.relu2", [-1], {}, "layer 'trunk.relu2' has units 0 ... 5, got -1."),
        ("trunk.relu2", [], {}, "layer 'trunk.relu2' has units 0 ... 5, got none."),
        (
            "trunk.relu2",
            [0],
            {"channels": 3},
            "a preset of 13 px and 3 channel(s): this network takes 1 channel(s), and 2",
        ),
        (
            "trunk.relu2",
            [0],
            {"size": 1},
            "a preset of 1 px and 1 channel(s): this network takes 1 channel(s), and 2 px",
        ),
        ("trunk.relu3", [0], {}, "this network has no layer 'trunk.relu3': did you mean 'trunk.relu2'?"),
    ],
)
def test_unknown_units_and_layers_and_unfit_presets_are_refused(
    layer: str, units: list[int], changes: dict[str, int], message: str
) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        optimise(make_network(), layer, units, preset=replace(GREY, **changes))


def disable_norms(network: FaceNetwork) -> FaceNetwork:
    """Make every batch norm the identity; the network itself is changed."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.eps = 0.0
    return network


def make_hand_weighted(kernels: np.ndarray) -> FaceNetwork:
    """A network whose unit i of conv2 is linear in 5x5 pixels, with weights `kernels[i]`; relu2 rectifies it.

    Nine units of conv1 copy the image shifted by a pixel in each direction, plus 1 so that their ReLU changes nothing.
    """
    network = disable_norms(make_network(widths=(9,), convolutions=2))
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
        trunk.norm2.bias.copy_(-trunk.conv2.weight.sum(dim=(1, 2, 3)))  # subtract the 1s
    return network


def make_kernels() -> np.ndarray:
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
    kernels = make_kernels()
    recipe = Recipe("centre", steps=96, shift=moves / 16, scale=moves / 10, turn=moves * 10, starts=2, batch_size=6)
    result = optimise(make_hand_weighted(kernels), layer, range(6), recipe)
    patches = result.images[:, 4:9, 4:9].reshape(6, -1)
    correlation = np.corrcoef(patches, np.sign(kernels.round(9)).reshape(6, -1))[:6, 6:]
    assert (np.diag(correlation) > 0.9).all(), np.diag(correlation).round(2)
    assert (correlation.argmax(axis=1) == np.arange(6)).all()
    # the largest response any picture can give, all pixels at -1 or 1
    np.testing.assert_allclose(result.response, np.abs(kernels).sum(axis=(1, 2)), rtol=0.06)
    assert (result.response <= np.abs(kernels).sum(axis=(1, 2)) + 1e-4).all()


def measure_orientation(pictures: np.ndarray) -> np.ndarray:
    """Degrees in [0, 180): mean direction in which pictures (n, size, size) vary, weighted by power."""
    size = pictures.shape[1]
    power = np.abs(np.fft.fft2(pictures - pictures.mean(axis=(1, 2), keepdims=True))) ** 2
    y, x = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    doubled = (power * np.exp(2j * np.arctan2(y, x))).sum(axis=(1, 2))  # angles modulo 180 degrees
    return np.rad2deg(np.angle(doubled)) / 2 % 180


def test_the_mean_response_of_an_edge_is_maximised_by_a_grating() -> None:
    """A grating has many edges; it varies in the direction in which the kernel does.

    Kernels sum to zero, and so does the map of their drive, except for the border: the mean of its positive part is at
    most half the maximum of a cell.
    """
    kernels = make_kernels()[:4]
    result = optimise(
        make_hand_weighted(kernels), "trunk.relu2", range(4), preset=replace(GREY, size=32), recipe=Recipe(batch_size=4)
    )
    error = (measure_orientation(result.images) - [0, 45, 90, 135] + 90) % 180 - 90
    assert (np.abs(error) < 10).all(), error.round(1)
    maximum = np.abs(kernels).sum(axis=(1, 2)) / 2
    assert (result.response > 0.4 * maximum).all() and (result.response < 1.2 * maximum).all(), (
        result.response / maximum
    )
    assert (result.response > 3 * result.baseline).all()


def test_a_colour_is_recovered() -> None:
    """A unit that reads single pixels prefers full light where its weight is positive and none where it is negative."""
    weights = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -0.7], [0.6, -1, 1]])
    network = disable_norms(make_network(channels=3, widths=(5,)))
    with torch.no_grad():
        network.trunk.conv1.weight.zero_()
        network.trunk.conv1.weight[:, :, 1, 1] = torch.tensor(weights, dtype=torch.float32)
    result = optimise(network, "trunk.norm1", range(5), Recipe(batch_size=5))
    colours = result.images.mean(axis=(1, 2))
    assert ((colours > 0.5) == (weights > 0)).all(), colours.round(2)
    assert (np.diag(np.corrcoef(colours, np.sign(weights))[:5, 5:]) > 0.95).all(), colours.round(2)


def make_biased(*biases: float) -> FaceNetwork:
    """Units of conv1 whose drive is the centre pixel, in [-1, 1], plus a bias."""
    network = disable_norms(make_network(widths=(len(biases),)))
    with torch.no_grad():
        network.trunk.conv1.weight.zero_()
        network.trunk.conv1.weight[:, 0, 1, 1] = 1.0
        network.trunk.norm1.bias.copy_(torch.tensor(biases))
    return network


@pytest.mark.parametrize("objective", ["map", "centre"])
@pytest.mark.parametrize("layer", ["trunk.relu1", "trunk.average"])
def test_dead_units_are_flagged_and_have_no_picture(objective: Any, layer: str) -> None:
    """Unit 0 responds to the start; 1 is silent at all starts only; 2 can never respond; 3 and 4 ignore the image."""
    network = make_biased(0.5, -0.6, -1.5, 0.5, 0.0)
    with torch.no_grad():
        network.trunk.conv1.weight[3] = 0.0
        network.trunk.conv1.weight[4] *= 1e-20
        network.trunk.norm1.bias[4] = 0.25
    result = optimise(network, layer, range(5), Recipe(objective, starts=4, batch_size=5))
    assert result.dead.tolist() == [False, False, True, True, True]
    assert result.start[0] > 0 and result.start[1:3].tolist() == [0, 0]
    assert result.baseline[1:3].tolist() == [0, 0]
    assert result.response[1] > 0.1 and result.response[2] == 0
    assert result.response[3:].tolist() == result.start[3:].tolist() == result.baseline[3:].tolist() == [0.5, 0.25]
    assert np.isnan(result.images[2:]).all() and np.isfinite(result.images[:2]).all()


def test_without_a_relu_a_negative_response_is_alive() -> None:
    result = optimise(make_biased(-1.5), "trunk.norm1", [0], replace(SHORT, steps=60))
    assert not result.dead[0] and result.start[0] < result.response[0] - 0.5 < 0
