"""Grad-CAM against second opinions: the definition in slow loops, captum, and pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from facespec.analyses.heatmaps import compute_heatmaps
from facespec.models import trunks
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.params import NetworkBlock

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = {"expression": 7, "identity": 5}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces_like(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((n, channels, height, width), generator=seeded(2)) * 2 - 1


def small(
    channels: int, *, branch_after: str | None = None, widths: Sequence[int] = (4, 6, 9), convolutions: int = 1
) -> FaceNetwork:
    """A small_vgg whose batch norm is not the identity."""
    block = NetworkBlock(trunk="small_vgg", channels=list(widths), convolutions=convolutions, branch_after=branch_after)
    network = build_network(block, CLASSES, channels=channels, generator=seeded(1)).train()
    with torch.no_grad():
        for _ in range(5):
            network(faces_like(9, channels, 17, 11))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.copy_(torch.randn(module.bias.shape, generator=seeded(3)) / 2)
    return network.eval()


def vgg16(branch_after: str | None = None) -> FaceNetwork:
    """A narrow one: four and eight filters, as VGG16 is of no other size, and eight units in fc6 and fc7."""
    block = NetworkBlock(trunk="vgg16", channels=[1], convolutions=1, branch_after=branch_after)
    network = build_network(block, CLASSES, channels=3, generator=seeded(4)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "fc" in name or "heads" in name:  # weights of sd 0.01 would leave next to nothing to compare
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(6)) / parameter.shape[-1] ** 0.5)
    return network


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", ((4, 4), (4, 4), (8, 8, 8), (8, 8, 8), (8, 8, 8)))


class OneTask(nn.Module):
    """What captum and pytorch-grad-cam expect: images in, logits out."""

    def __init__(self, network: FaceNetwork, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images, [self.task])[self.task]


def definition(network: FaceNetwork, image: torch.Tensor, name: str, task: str, code: int) -> np.ndarray:
    """The map of one image: every response is moved up and down in turn, to see what the logit does."""
    given: list[np.ndarray] = []
    moved: list[torch.Tensor] = []

    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        given.append(output.detach().numpy()[0].copy())
        return moved[-1] if moved else None

    def logit(responses: np.ndarray) -> float:
        moved.append(torch.from_numpy(responses)[None])
        return float(network(image, [task])[task][0, code])

    handle = network.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        network(image, [task])
        responses = given[0]
        units, height, width = responses.shape
        heatmap = np.zeros((height, width))
        for unit in range(units):
            slopes = []
            for cell in np.ndindex(height, width):
                step = np.zeros_like(responses)
                step[unit, *cell] = 1e-6
                slopes.append((logit(responses + step) - logit(responses - step)) / 2e-6)
            heatmap += sum(slopes) / len(slopes) * responses[unit]
    handle.remove()
    return np.where(heatmap > 0, heatmap, 0)


SMOOTH = ["conv1", "norm1", "relu1", "norm2", "pool1", "relu3", "conv4", "relu4"]


@pytest.mark.parametrize("branch_after", [None, "conv3"])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_definition_in_slow_loops(name: str, branch_after: str | None) -> None:
    """Finite differences in float64: good to about 1e-16 / 1e-6 of the logit.

    Not at a ReLU before a pool: of equal zeros, a pool has no slope to speak of.
    """
    network = small(1, branch_after=branch_after, widths=(3, 2), convolutions=2).double()
    faces = faces_like(2, 1, 5, 7).double()
    targets = {"expression": torch.tensor([4, 0]), "identity": torch.tensor([3, 1])}
    layers = {task: named(network, name, task) for task in CLASSES}
    maps = compute_heatmaps(network, faces, layers, targets)
    assert sum(int(own.any()) for own in maps.values()) > 0
    for task, own in maps.items():
        assert own.dtype == torch.float64
        for i, code in enumerate(targets[task]):
            wanted = definition(network, faces[i : i + 1], layers[task], task, int(code))
            np.testing.assert_allclose(own[i], wanted, rtol=1e-6, atol=1e-10)


def named(network: FaceNetwork, name: str, task: str) -> str:
    """The layer called `name`, in the trunk or in the branch of `task`."""
    return f"trunk.{name}" if name in dict(network.trunk.named_children()) else f"branches.{task}.{name}"


SMALL = ["conv1", "norm1", "relu1", "pool1", "conv2", "norm2", "relu2", "pool2", "conv3", "norm3", "relu3"]
DEEP = ["conv1", "relu2", "pool1", "conv7", "relu7", "pool3", "conv13", "relu13", "pool5", "grid"]
NETWORKS: dict[str, tuple[Callable[[], FaceNetwork], torch.Tensor, list[str]]] = {
    "grey": (lambda: small(1), faces_like(5, 1, 17, 11), SMALL),
    "rgb": (lambda: small(3), faces_like(5, 3, 17, 11), SMALL),
    "branched": (lambda: small(1, branch_after="conv2"), faces_like(5, 1, 17, 11), SMALL),
    "vgg16": (vgg16, faces_like(3, 3, 32, 32), DEEP),
    "wide vgg16": (vgg16, faces_like(2, 3, 70, 97), DEEP[3:]),
    "branched vgg16": (lambda: vgg16("conv10"), faces_like(3, 3, 64, 32), DEEP[3:]),
}


@pytest.mark.parametrize("target", ["labelled", "predicted"])
@pytest.mark.parametrize("case", NETWORKS)
def test_two_libraries_give_the_same_maps(case: str, target: str) -> None:
    """captum's raw maps; pytorch-grad-cam's, which it stretches, enlarges, and stretches again, as it does it.

    Close: float32 sums in another order.
    """
    make, faces, names = NETWORKS[case]
    network, seen = make(), 0
    draw = seeded(5)
    labels = {task: torch.randint(n, (len(faces),), generator=draw) for task, n in CLASSES.items()}
    given = labels if target == "labelled" else dict.fromkeys(CLASSES)
    with torch.no_grad():
        likeliest = {task: logits.argmax(dim=1) for task, logits in network(faces).items()}
    codes = labels if target == "labelled" else likeliest
    for name in names:
        maps = compute_heatmaps(network, faces, {task: named(network, name, task) for task in CLASSES}, given)
        for task, own in maps.items():
            layer, model = network.get_submodule(named(network, name, task)), OneTask(network, task)
            theirs = LayerGradCam(model, layer).attribute(faces, codes[task], relu_attributions=True)[:, 0].detach()
            torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))
            with GradCAM(model, [layer]) as cam:
                outputs = None if target == "predicted" else [ClassifierOutputTarget(int(c)) for c in codes[task]]
                stretched = cam(input_tensor=faces, targets=outputs)
            ours = scale_cam_image(scale_cam_image(own.numpy(), (faces.shape[3], faces.shape[2])))
            np.testing.assert_allclose(ours, stretched, rtol=0, atol=1e-4)
            seen += int(own.flatten(1).any(dim=1).sum())
    assert seen > len(faces) * len(names)  # of all maps, more than half are not blank
