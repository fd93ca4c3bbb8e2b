"""Grad-CAM against references: the definition in slow loops, captum, and pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from toys import CLASSES, make_network, random_images, randomise_norms, seeded

pytestmark = pytest.mark.usefixtures("one_thread")


def make_small(channels: int, **options: Any) -> FaceNetwork:
    return randomise_norms(make_network(**({"widths": (4, 6, 9)} | options), channels=channels))


def make_vgg16(branch_after: str | None = None) -> FaceNetwork:
    """A VGG16 with the few units of `_narrow_vgg16`."""
    block = NetworkBlock(trunk="vgg16", channels=[1], convolutions=1, branch_after=branch_after)
    network = build_network(block, CLASSES, channels=3, generator=seeded(4)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "fc" in name or "heads" in name:  # weights of sd 0.01 would give maps near zero
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(6)) / parameter.shape[-1] ** 0.5)
    return network


@pytest.fixture(autouse=True)
def _narrow_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", ((4, 4), (4, 4), (8, 8, 8), (8, 8, 8), (8, 8, 8)))


class OneTask(nn.Module):
    """A network as captum and pytorch-grad-cam expect it: images in, logits of one task out."""

    def __init__(self, network: FaceNetwork, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images, [self.task])[self.task]


def compute_slowly(network: FaceNetwork, image: torch.Tensor, name: str, task: str, code: int) -> np.ndarray:
    """The map of one image, from finite differences of the logit by every response."""
    outputs: list[np.ndarray] = []
    replacements: list[torch.Tensor] = []

    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        outputs.append(output.detach().numpy()[0].copy())
        return replacements[-1] if replacements else None

    def compute_logit(responses: np.ndarray) -> float:
        replacements.append(torch.from_numpy(responses)[None])
        return float(network(image, [task])[task][0, code])

    handle = network.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        network(image, [task])
        responses = outputs[0]
        units, height, width = responses.shape
        heatmap = np.zeros((height, width))
        for unit in range(units):
            slopes = []
            for cell in np.ndindex(height, width):
                step = np.zeros_like(responses)
                step[unit, *cell] = 1e-6
                slopes.append((compute_logit(responses + step) - compute_logit(responses - step)) / 2e-6)
            heatmap += sum(slopes) / len(slopes) * responses[unit]
    handle.remove()
    return np.where(heatmap > 0, heatmap, 0)


SMOOTH = ["conv1", "norm1", "relu1", "norm2", "pool1", "relu3", "conv4", "relu4"]


@pytest.mark.parametrize("branch_after", [None, "conv3"])
@pytest.mark.parametrize("name", SMOOTH)
def test_maps_are_those_of_the_definition(name: str, branch_after: str | None) -> None:
    """Finite differences in float64 are exact to about 1e-16 / 1e-6 of the logit.

    Not at a ReLU before a pool: a pool of equal zeros has no derivative.
    """
    network = make_small(1, branch_after=branch_after, widths=(3, 2), convolutions=2).double()
    faces = random_images(2, 1, 5, 7).double()
    targets = {"expression": torch.tensor([4, 0]), "identity": torch.tensor([3, 1])}
    layers = {task: find_layer(network, name, task) for task in CLASSES}
    maps = compute_heatmaps(network, faces, layers, targets)
    assert any(task_maps.any() for task_maps in maps.values())
    for task, task_maps in maps.items():
        assert task_maps.dtype == torch.float64
        for i, code in enumerate(targets[task]):
            expected = compute_slowly(network, faces[i : i + 1], layers[task], task, int(code))
            np.testing.assert_allclose(task_maps[i], expected, rtol=1e-6, atol=1e-10)


def find_layer(network: FaceNetwork, name: str, task: str) -> str:
    """The layer called `name`, in the trunk or in the branch of `task`."""
    return f"trunk.{name}" if name in dict(network.trunk.named_children()) else f"branches.{task}.{name}"


SMALL = ["conv1", "norm1", "relu1", "pool1", "conv2", "norm2", "relu2", "pool2", "conv3", "norm3", "relu3"]
DEEP = ["conv1", "relu2", "pool1", "conv7", "relu7", "pool3", "conv13", "relu13", "pool5", "grid"]
NETWORKS: dict[str, tuple[Callable[[], FaceNetwork], torch.Tensor, list[str]]] = {
    "grey": (lambda: make_small(1), random_images(5, 1, 17, 11), SMALL),
    "rgb": (lambda: make_small(3), random_images(5, 3, 17, 11), SMALL),
    "branched": (lambda: make_small(1, branch_after="conv2"), random_images(5, 1, 17, 11), SMALL),
    "vgg16": (make_vgg16, random_images(3, 3, 32, 32), DEEP),
    "wide vgg16": (make_vgg16, random_images(2, 3, 70, 97), DEEP[3:]),
    "branched vgg16": (lambda: make_vgg16("conv10"), random_images(3, 3, 64, 32), DEEP[3:]),
}


@pytest.mark.parametrize("target", ["labelled", "predicted"])
@pytest.mark.parametrize("case", NETWORKS)
def test_two_libraries_give_the_same_maps(case: str, target: str) -> None:
    """captum's raw maps; pytorch-grad-cam's, which are scaled, enlarged, and scaled again, as ours are here.

    Close: float32 sums in another order.
    """
    make, faces, names = NETWORKS[case]
    network, n_maps, random = make(), 0, seeded(5)
    labels = {task: torch.randint(n, (len(faces),), generator=random) for task, n in CLASSES.items()}
    targets = labels if target == "labelled" else dict.fromkeys(CLASSES)
    with torch.no_grad():
        predicted = {task: logits.argmax(dim=1) for task, logits in network(faces).items()}
    codes = labels if target == "labelled" else predicted
    for name in names:
        maps = compute_heatmaps(network, faces, {task: find_layer(network, name, task) for task in CLASSES}, targets)
        for task, task_maps in maps.items():
            layer, model = network.get_submodule(find_layer(network, name, task)), OneTask(network, task)
            expected = LayerGradCam(model, layer).attribute(faces, codes[task], relu_attributions=True)[:, 0].detach()
            torch.testing.assert_close(task_maps, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
            with GradCAM(model, [layer]) as cam:
                outputs = None if target == "predicted" else [ClassifierOutputTarget(int(c)) for c in codes[task]]
                scaled = cam(input_tensor=faces, targets=outputs)
            ours = scale_cam_image(scale_cam_image(task_maps.numpy(), (faces.shape[3], faces.shape[2])))
            np.testing.assert_allclose(ours, scaled, rtol=0, atol=1e-4)
            n_maps += int(task_maps.flatten(1).any(dim=1).sum())
    assert n_maps > len(faces) * len(names)  # of all maps, more than half are not blank
