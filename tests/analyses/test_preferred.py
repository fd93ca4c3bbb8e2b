"""Preferred stimuli: responses are the network's, every objective rises, units do not meddle, all is given back."""

from __future__ import annotations

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


def made(seed: int = 1, *, channels: int = 1, widths: tuple[int, ...] = (4, 6), **block: Any) -> FaceNetwork:
    """A network whose batch norm has seen images; `block` overrides parts of its description."""
    described = {"trunk": "small_vgg", "channels": list(widths), "convolutions": 1, "branch_after": None} | block
    draw = torch.Generator().manual_seed(seed)
    network = build_network(NetworkBlock(**described), TASKS, channels=channels, generator=draw).train()
    network(torch.rand((9, channels, 13, 13), generator=draw) * 2 - 1)
    return network.eval()


def found(network: FaceNetwork, layer: str, units: Any, recipe: Recipe = SHORT, **changes: Any) -> PreferredStimuli:
    seed = changes.pop("seed", 5)
    streams = {unit: generator(seed, layer, unit) for unit in units}
    how = {"preset": replace(GREY, channels=network.channels), "device": torch.device("cpu")} | changes
    return optimise_stimuli(network, layer, streams, recipe=recipe, **how)


def shown(network: FaceNetwork, layer: str, images: np.ndarray) -> np.ndarray:
    """What all units of `layer` answer to pictures in [0, 1]: the network's own forward pass."""
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
    network = made(channels=channels, branch_after="conv1")
    units = [3, 0, 1, 2]
    got = found(network, layer, units, replace(SHORT, objective=objective))
    alive = ~got.dead
    assert got.images.shape == (4, 13, 13) + (() if channels == 1 else (3,)) and got.images.dtype == np.float32
    assert alive.any() and got.images[alive].min() >= 0 and got.images[alive].max() <= 1
    answers = shown(network, layer, got.images[alive])
    if answers.ndim == 4:
        middle = answers[:, :, answers.shape[2] // 2, answers.shape[3] // 2]
        answers = middle if objective == "centre" else answers.mean(axis=(2, 3))
    own = answers[np.arange(alive.sum()), np.array(units)[alive]]
    np.testing.assert_allclose(got.response[alive], own, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got.units, units)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    layer=st.sampled_from(LAYERS),
    channels=st.sampled_from([1, 3]),
    objective=st.sampled_from(["map", "centre"]),
    size=st.sampled_from([11, 14, 17]),
)
def test_every_objective_rises(seed: int, layer: str, channels: int, objective: Any, size: int) -> None:
    """Above the start, which is the best of the random ones; only a dead unit stays where it was."""
    network = made(seed, channels=channels, branch_after="conv1")
    recipe = Recipe(objective, steps=24, starts=3, batch_size=4)
    preset = replace(GREY, size=size, channels=channels)
    got = found(network, layer, range(4), recipe, preset=preset, seed=seed)
    alive = ~got.dead
    assert (got.response > got.start)[alive].all()
    assert (got.start >= got.baseline - 1e-6).all()
    assert (got.course[:, -4:].mean(axis=1) > got.course[:, :4].mean(axis=1))[alive].all()
    assert np.isfinite(got.images[alive]).all() and np.isnan(got.images[got.dead]).all()


FIELDS = ("units", "images", "response", "start", "baseline", "course", "dead")


@settings(max_examples=10)
@given(st.permutations(range(6)), st.integers(1, 6), st.sampled_from([13, 16]))
def test_a_picture_does_not_depend_on_the_units_beside_it(order: list[int], n: int, size: int) -> None:
    """Alone, with others, in another place, in another batch: to the last bit at 16 px, up to rounding at 13."""
    network, preset = made(), replace(GREY, size=size)
    alone = found(network, "trunk.relu2", [4], preset=preset)
    together = found(network, "trunk.relu2", dict.fromkeys([*order[:n], 4]), preset=preset)
    place = together.units.tolist().index(4)
    for name in FIELDS:
        one, other = getattr(alone, name)[0], getattr(together, name)[place]
        if size == 16:
            np.testing.assert_array_equal(one, other, err_msg=name)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)


def test_other_batch_sizes_differ_by_rounding_alone() -> None:
    network = made()
    one, other = (found(network, "trunk.relu2", range(6), replace(SHORT, batch_size=size)) for size in (1, 5))
    np.testing.assert_allclose(one.images, other.images, atol=1e-3)  # differences of sums' order grow over the steps
    np.testing.assert_allclose(one.response, other.response, rtol=1e-3)


def test_a_stream_is_the_units_own() -> None:
    """Another stream gives another picture; a stream moves on, and nothing else is drawn from."""
    network = made()
    one, again, other = (found(network, "trunk.relu2", range(3), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.images, again.images)
    assert (np.abs(one.images - other.images).max(axis=(1, 2)) > 0.01).all()
    assert len(np.unique(one.start)) == 3


def test_nothing_above_the_layer_is_computed() -> None:
    class Forbidden(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            raise AssertionError("computed")

    network = made(branch_after="conv1")
    for name in ("relu2", "average"):
        setattr(network.branches["expression"], name, Forbidden())
    network.branches["identity"], network.heads["expression"] = nn.Sequential(Forbidden()), Forbidden()
    assert found(network, "branches.expression.norm2", [0, 5]).response.shape == (2,)
    with pytest.raises(AssertionError, match="computed"):
        found(network, "branches.expression.average", [0])


def test_the_scale_of_responses_does_not_matter() -> None:
    """Adam looks at signs: a unit that answers a million times less has the same picture."""
    network = made()
    loud = found(network, "trunk.relu2", range(6))
    with torch.no_grad():
        network.trunk.norm2.weight.mul_(1e-6)
        network.trunk.norm2.bias.mul_(1e-6)
    quiet = found(network, "trunk.relu2", range(6))
    np.testing.assert_allclose(quiet.images, loud.images, atol=1e-3)
    np.testing.assert_allclose(quiet.response, loud.response * 1e-6, rtol=1e-3)


def test_the_network_comes_back_as_it_was() -> None:
    network = made().train()
    network.trunk.norm1.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.trunk.conv2.weight.register_hook(lambda _: pytest.fail("gradient of a parameter"))
    found(network, "trunk.relu2", [1, 2])
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


UNITS = "layer 'trunk.relu2' has units 0 ... 5, got "


@pytest.mark.parametrize(
    ("layer", "units", "changes", "message"),
    [
        ("trunk.relu2", [0, 6], {}, UNITS + "6."),
        ("trunk.relu2", [-1], {}, UNITS + "-1."),
        ("trunk.relu2", [], {}, UNITS + "none."),
        (
            "trunk.relu2",
            [0],
            {"preset": replace(GREY, channels=3)},
            "a preset of 13 px and 3 channel(s): this network takes 1 channel(s), and 2 px or more. "
            "Use the preset of its checkpoint.",
        ),
        (
            "trunk.relu2",
            [0],
            {"preset": replace(GREY, size=1)},
            "a preset of 1 px and 1 channel(s): this network takes 1 channel(s), and 2 px or more. "
            "Use the preset of its checkpoint.",
        ),
        (
            "trunk.relu3",
            [0],
            {},
            "this network has no layer 'trunk.relu3': did you mean 'trunk.relu2'? Allowed: 'trunk.conv1', "
            "'trunk.norm1', 'trunk.relu1', 'trunk.pool1', 'trunk.conv2', 'trunk.norm2', 'trunk.relu2', "
            "'trunk.average', 'heads.expression', 'heads.identity'.",
        ),
    ],
)
def test_what_cannot_be_is_refused(layer: str, units: list[int], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        found(made(), layer, units, **changes)
    assert str(caught.value) == message
