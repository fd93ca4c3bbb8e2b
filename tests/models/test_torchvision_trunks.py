"""torchvision's models as trunks: the same numbers, layers in the order in which they run, responses found by hooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model
from torchvision.ops import SqueezeExcitation

from facespec.analyses.heatmaps import compute_heatmaps
from facespec.analyses.preferred import _choose_units
from facespec.data.batches import make_preset
from facespec.models import torchvision_trunks, tracing
from facespec.models.checkpoints import Checkpoint, Origin, load_checkpoint, save_checkpoint
from facespec.models.layers import (
    find_last_convolution,
    find_lesion_layer,
    find_rectifier,
    get_layer,
    list_convolutions,
    list_layers,
)
from facespec.models.networks import FaceNetwork, build_network, replace_heads
from facespec.models.receptive import NoReceptiveField, Reach, compute_receptive_field
from facespec.models.torchvision_trunks import ChannelNorm, StochasticDepth, draw_trunk, list_models, measure_trunk
from facespec.responses.lesioned import LesionedNetwork
from facespec.responses.lesioning import lesion_units
from facespec.responses.recording import record_responses
from facespec.stages.network_files import check_network
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Network
from toys import CLASSES, random_images, randomise_norms, seeded

# model -> its classifier, and what stands in its place so that the model returns the average of its last map
PENULTIMATE = {
    "resnet18": ("fc", nn.Identity()),
    "mobilenet_v3_small": ("classifier", nn.Identity()),
    "squeezenet1_1": ("classifier", nn.AdaptiveAvgPool2d(1)),
    "shufflenet_v2_x0_5": ("fc", nn.Identity()),
    "densenet121": ("classifier", nn.Identity()),
    "convnext_tiny": ("classifier", nn.Flatten()),
    "googlenet": ("fc", nn.Identity()),
    "regnet_y_400mf": ("fc", nn.Identity()),
}


def make_block(name: str = "resnet18", **options: Any) -> NetworkBlock:
    return NetworkBlock(trunk=name, channels=[3], convolutions=1, branch_after=None, **options)


def build(name: str = "resnet18", *, channels: int = 1, seed: int = 1, **options: Any) -> FaceNetwork:
    """A network in evaluation mode whose norms change their input."""
    network = build_network(make_block(name, **options), CLASSES, channels=channels, generator=seeded(seed))
    return randomise_norms(network).eval()


@cache
def get_network(name: str = "resnet18", channels: int = 1) -> FaceNetwork:
    """One network for many tests, which must not change it."""
    return build(name, channels=channels)


def make_torchvision(name: str, trunk: nn.Module) -> nn.Module:
    """torchvision's own model with the weights of `trunk`, and without its classifier."""
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        model = get_model(name, weights=None, **options)
    setattr(model, *PENULTIMATE[name])
    model.load_state_dict(trunk.state_dict())  # strict: the same names
    return model.eval()


@contextmanager
def record_calls(model: nn.Module, kind: type[nn.Module]) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Names and outputs of all modules of a `kind`, in the order in which they run."""
    calls: list[tuple[str, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(lambda m, i, output, name=name: calls.append((name, output.clone())))
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", list(PENULTIMATE))
def test_a_trunk_computes_what_its_model_computes(name: str) -> None:
    """Up to the average of the last map, from the same weights; its convolutions run in the order of `list_layers`."""
    network, images = get_network(name, 3), random_images(2, 3, 64, 64)
    model = make_torchvision(name, network.trunk)
    with torch.inference_mode(), record_calls(model, nn.Conv2d) as calls:
        expected = model(images).flatten(1)
        got = network.penultimate(images, "identity")
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert network.width == got.shape[1] == measure_trunk(name).width and expected.std() > 0
    gates = {
        f"{block}.{key}"
        for block, module in model.named_modules()
        if isinstance(module, SqueezeExcitation)
        for key in ("fc1", "fc2")
    }
    assert [f"trunk.{key}" for key, _ in calls if key not in gates] == list_convolutions(network)
    assert [layer.depth for layer in list_layers(network)] == list(range(1, len(calls) - len(gates) + 1))


def test_a_grey_network_is_the_one_for_colours_on_grey_pictures() -> None:
    """The picture in all three channels gives the same responses; sums of float32 have another order."""
    grey, colour, images = build(), build(channels=3), random_images(3, 1, 40, 33)
    assert tuple(grey.trunk.conv1.weight.shape) == (64, 1, 7, 7) and grey.trunk.conv1.in_channels == 1
    with torch.inference_mode():
        expected = colour.penultimate(images.expand(-1, 3, -1, -1), "identity")
        torch.testing.assert_close(grey.penultimate(images, "identity"), expected, rtol=1e-4, atol=1e-4)


def test_responses_of_residual_blocks_are_those_of_torchvisions_modules() -> None:
    """Behind norm and ReLU within a block, which the block calls twice; what the block adds, before the sum."""
    network, images = get_network("resnet18", 3), random_images(2, 3, 40, 33)
    model = make_torchvision("resnet18", network.trunk)
    with torch.inference_mode(), record_calls(model, nn.ReLU) as relus, record_calls(model, nn.BatchNorm2d) as norms:
        model(images)
    firsts = dict(reversed(relus))  # of two calls, the first
    lasts, added = dict(relus), dict(norms)
    expected = {
        "conv1": firsts["relu"],
        "layer1.0.conv1": firsts["layer1.0.relu"],
        "layer2.0.conv2": added["layer2.0.bn2"],
    }
    expected |= {"layer2.0.downsample.0": added["layer2.0.downsample.1"]}
    layers = {name: find_rectifier(network, f"trunk.{name}") for name in expected}
    with torch.inference_mode(), record_responses(network, [*layers.values(), "trunk.maps"]) as responses:
        network(images)
    for name, layer in layers.items():
        torch.testing.assert_close(responses[layer], expected[name], rtol=1e-4, atol=1e-4)
    assert find_last_convolution(network, "identity") == "trunk.maps"
    torch.testing.assert_close(responses["trunk.maps"], lasts["layer4.1.relu"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_units_respond_where_they_are_lesioned(name: str) -> None:
    """The tracing of lesions finds the same module; every response has a module of its own."""
    network = get_network(name, 3)
    layers = list_layers(network)
    traced = tracing.trace_network(network, layers[0].name)
    steps = [tracing.follow_unit_steps(traced, tracing.find_call(traced, layer.name))[-1] for layer in layers]
    assert [str(step.target) for step in steps] == [layer.response for layer in layers]
    assert len({id(get_layer(network, layer.response)) for layer in layers}) == len(layers)
    assert set(torchvision_trunks.ACTIVATIONS) <= set(tracing.RECTIFIERS)


def test_no_activation_works_in_place_and_sections_are_no_layers() -> None:
    network = get_network("mobilenet_v3_small", 3)
    assert not [m for m in network.modules() if getattr(m, "inplace", False)]
    for name in ("trunk", "trunk.features", "trunk.features.1"):
        with pytest.raises(StudyError, match="no layer"):
            get_layer(network, name)


def test_class_activation_maps_are_exact() -> None:
    """Grad-CAM of the last map is the head's weighted sum of its units, rectified, over the number of cells."""
    network, images = get_network(), random_images(2, 1, 64, 96)
    classes = torch.tensor([1, 4])
    maps = compute_heatmaps(network, images, {"identity": "trunk.maps"}, {"identity": classes})["identity"]
    with torch.inference_mode(), record_responses(network, ["trunk.maps"]) as responses:
        network(images)
    weights = network.heads["identity"].weight[classes].detach()
    expected = torch.einsum("nu,nuhw->nhw", weights, responses["trunk.maps"]).relu() / 6
    assert maps.shape == (2, 2, 3)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-7)


def test_networks_of_one_seed_share_their_trunk() -> None:
    before = torch.get_rng_state()
    block = make_block("mobilenet_v3_small")
    joint, single, other = (
        build_network(block, classes, channels=1, generator=seeded(seed)).state_dict()
        for classes, seed in ((CLASSES, 1), ({"identity": 5}, 1), (CLASSES, 2))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, joint[name]) for name, tensor in single.items())
    weights = [name for name in joint if name.startswith("trunk") and joint[name].ndim == 4]
    assert len(weights) == 34 + 18  # convolutions, and the gates of nine blocks
    assert not any(torch.equal(joint[name], other[name]) for name in weights)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("resnet81", "unknown trunk 'resnet81': did you mean 'resnet18'? Allowed: 'small_vgg', 'alexnet', "),
        (
            "vit_b_16",
            "vit_b_16 cannot be used: it is a transformer, whose only convolution cuts the image into patches",
        ),
        ("maxvit_t", "maxvit_t cannot be used: images of 512 px and 3 channel(s) give shape"),
        ("alexnet", "alexnet takes images of 63 px or more, got 48 px. Set data.size"),
    ],
)
def test_models_that_cannot_be_used_are_refused_with_the_reason(name: str, problem: str) -> None:
    with pytest.raises(StudyError, match=re.escape(problem)):
        check_network(make_block(name), [make_preset("small", 48, 1)])


def test_layers_can_be_chosen_by_name_and_keep_their_depth() -> None:
    network = get_network()
    names = ["layer4.1.conv2", "conv1"]
    chosen = FaceNetwork.__new__(FaceNetwork)
    chosen.__dict__ = dict(network.__dict__, block=make_block(layers=names))
    assert [(layer.name, layer.depth) for layer in list_layers(chosen)] == [
        ("trunk.conv1", 1),
        ("trunk.layer4.1.conv2", 20),
    ]
    with pytest.raises(
        StudyError, match=re.escape("resnet18 has no convolution 'layer4.conv2': did you mean 'layer4.")
    ):
        check_network(make_block(layers=["layer4.conv2"]), [make_preset("small", 48, 1)])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_a_file_all_but_the_classifier(tmp_path: Path, suffix: str) -> None:
    with torch.random.fork_rng(devices=[]):
        state = get_model("mobilenet_v3_small", weights=None, num_classes=9).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    block = make_block("mobilenet_v3_small", weights=str(path))
    network = build_network(block, CLASSES, channels=3, generator=seeded())
    for name, tensor in network.trunk.state_dict().items():
        assert torch.equal(tensor, state[name])
    check_network(block, [make_preset("small", 48, 1)])
    path.unlink()  # a trained network does not need it
    assert replace_heads(network, CLASSES, generator=seeded(4)).block == block
    with pytest.raises(StudyError, match="no such file"):
        build_network(block, CLASSES, channels=3, generator=seeded())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        state = get_model("mobilenet_v3_small", weights=None).state_dict()
        module = nn.Linear(2, 2)
    first = "features.0.0.weight"
    files: dict[str, tuple[Any, str]] = {
        "missing": ({key: value for key, value in state.items() if key != first}, f"missing {first}"),
        "unexpected": (state | {"more": torch.ones(1)}, "unexpected more"),
        "shape": (state | {first: torch.ones(16, 3, 5, 5)}, "size mismatch"),
        "infinite": (state | {first: torch.full((16, 3, 3, 3), torch.inf)}, f"{first} is not finite"),
        "whole": ({"model": state}, "not a state dict of tensors"),
        "module": (module, "not a state dict of tensors"),
    }
    for name, (content, problem) in files.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(StudyError, match=problem):
            draw_trunk("mobilenet_v3_small", channels=3, generator=seeded(), weights=str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4.0.conv1"),
        ("resnet18", "layer4.1.conv2"),
        ("resnet18", "layer4.0.downsample.0"),
        ("mobilenet_v3_small", "features.11.block.1.0"),  # depthwise, before a squeeze-and-excitation block
    ],
)
def test_lesions_of_single_units_are_those_of_a_forward_pass(name: str, layer: str) -> None:
    network, images = get_network(name), random_images(2, 1, 48, 33)
    unit_layer = next(each for each in list_layers(network) if each.name == f"trunk.{layer}")
    lesioned = LesionedNetwork(network, find_lesion_layer(network, unit_layer))
    batch = lesioned.prepare_batch(images)
    units = torch.tensor([0, 5, 17])
    parts = lesioned.compute_single_lesions(batch, torch.zeros(batch.units, dtype=torch.bool), units)
    got = torch.cat([logits["identity"] for _, logits in parts])
    target = find_lesion_layer(network, unit_layer)
    with torch.inference_mode():
        intact, changed = network(images)["identity"], []
        for unit, logits in zip(units, got, strict=True):
            lesions = {target: torch.arange(batch.units) == unit}
            with lesion_units(network, lesions), record_responses(network, [unit_layer.response]) as responses:
                expected = network(images)["identity"]
            assert not responses[unit_layer.response][:, unit].any()
            torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(intact.abs().max()))
            changed.append(not torch.equal(expected, intact))

    assert any(changed)  # a unit may be silent


@pytest.mark.parametrize("layer", ["conv1", "layer1.0.conv2", "layer2.0.downsample.0", "layer2.0.conv2"])
def test_receptive_fields_are_where_pixels_have_an_effect(layer: str) -> None:
    """With positive weights, every pixel of the field has a gradient, and no other one."""
    network = build().double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(0.01)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    response = find_rectifier(network, f"trunk.{layer}")
    images = torch.rand((1, 1, 96, 80), generator=seeded(), dtype=torch.float64).requires_grad_()
    outputs: list[torch.Tensor] = []
    handle = get_layer(network, response).register_forward_hook(lambda m, i, output: outputs.append(output))
    network(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(outputs[0][0, :, 5, 4].sum(), images)
    mask = np.zeros((96, 80), bool)
    mask[compute_receptive_field(network, response).window(5, 4, (96, 80)).slices] = True
    touched = gradient[0, 0].numpy() > 0
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    if "downsample" not in layer:  # that reads every second cell of max-pools: the ends count
        assert touched[mask].mean() > 0.3
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    # a max-pool passes on one pixel of its window: at the edges of the field, gradients may fall inwards
    assert not (box & ~mask).any() and box.sum() > 0.5 * mask.sum()


def test_joined_fields_cover_both_and_gates_have_none() -> None:
    assert Reach(7, 4, -3).join(Reach(3, 4, 2)) == Reach(8, 4, -3)
    assert Reach(3, 2, 2).join(Reach(7, 2, -3)) == Reach(8, 2, -3)
    network = get_network("mobilenet_v3_small")
    assert compute_receptive_field(network, "trunk.features.0.2").down == Reach(3, 2, -1)
    for layer in ("trunk.features.12.2", "trunk.average", "heads.identity"):
        with pytest.raises(NoReceptiveField, match=f"layer '{layer}' has no receptive field"):
            compute_receptive_field(network, layer)


@pytest.mark.parametrize("layer", ["trunk.layer1.0.relu", "trunk.layer1.0.bn2", "trunk.layer3.0.downsample.1"])
def test_units_whose_stimuli_are_optimised_are_those_that_are_recorded(layer: str) -> None:
    network, images, units = get_network(), random_images(4, 1, 33, 40), torch.tensor([3, 0, 63, 3])
    section = _choose_units(network, layer, "map")
    with torch.inference_mode(), record_responses(network, [layer]) as responses:
        network(images)
        response, objective = section.respond(images, units)
    means = responses[layer].mean(dim=(2, 3))
    torch.testing.assert_close(response, means[torch.arange(4), units])
    assert section.count == means.shape[1]
    assert torch.equal(objective[response > 0], response[response > 0])
    with pytest.raises(StudyError, match="is not where units of a convolution respond"):
        _choose_units(network, "trunk.layer1.0.conv1", "map")


def test_a_norm_over_channels_is_torchvisions() -> None:
    with torch.random.fork_rng(devices=[]):
        norm = get_model("convnext_tiny", weights=None).features[0][1]
    with torch.no_grad():
        norm.weight.uniform_(generator=seeded())
    maps = random_images(2, 96, 5, 7)
    torch.testing.assert_close(ChannelNorm(norm)(maps), norm(maps))


def test_stochastic_depth_leaves_out_its_share_of_the_images() -> None:
    """Within 4 sd of 4,000 independent draws; whole images, from its generator alone; the others are scaled up."""
    depth, maps = StochasticDepth(0.3).train(), torch.full((4000, 2, 1, 3), 7.0)
    with pytest.raises(StudyError, match=r"network\.draw_from\(generator\)"):
        depth(maps)
    depth.generator = seeded(3)
    first = depth(maps)
    images = first.flatten(1)
    assert abs((images == 0).all(dim=1).float().mean() - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    torch.testing.assert_close(images[images.any(dim=1)].unique(), torch.tensor([10.0]))
    depth.generator = seeded(3)
    assert torch.equal(depth(maps), first) and depth.eval()(maps) is maps


def test_every_draw_of_a_network_comes_from_its_generator() -> None:
    network, images = build("convnext_tiny").train(), random_images(3, 1, 32, 32)
    before = torch.get_rng_state()
    network.draw_from(seeded(3))
    first = network.compute_logits({"identity": images})["identity"]
    network.draw_from(seeded(3))
    assert torch.equal(network.compute_logits({"identity": images})["identity"], first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_gives_back_the_network(tmp_path: Path) -> None:
    network, images = get_network("mobilenet_v3_small"), random_images(2, 1, 32, 32)
    classes = {task: tuple(f"{i:02d}" for i in range(n)) for task, n in CLASSES.items()}
    origin, preset = Origin("train", Network.JOINT, 1), make_preset("small", 32, 1)
    save_checkpoint(tmp_path / "a", Checkpoint(network, origin, classes, preset, {}, []))
    loaded = load_checkpoint(tmp_path / "a", expect=origin).network
    with torch.inference_mode():
        assert all(torch.equal(logits, network(images)[task]) for task, logits in loaded(images).items())
    assert loaded.block == network.block and list_layers(loaded) == list_layers(network)


def test_blocks_of_the_studys_own_trunks_are_written_as_before() -> None:
    """Their checkpoints stay as they are, byte for byte."""
    keys = ["trunk", "channels", "convolutions", "branch_after"]
    assert list(make_block("small_vgg").model_dump()) == list(make_block("resnet18").model_dump()) == keys
    block = make_block("resnet18", weights="a.pth", layers=["conv1"])
    assert NetworkBlock.model_validate(block.model_dump()) == block
    with pytest.raises(ValueError, match="goes with a torchvision model, not with small_vgg"):
        make_block("small_vgg", weights="a.pth")
    with pytest.raises(ValueError, match="not of resnet18"):
        NetworkBlock(trunk="resnet18", channels=[3], convolutions=1, branch_after="conv1")
    assert {"resnet18", "vgg16_bn", "densenet121"} < set(list_models())
