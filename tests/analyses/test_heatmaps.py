"""Grad-CAM by hand and in closed form; any layer and branch, batch by batch; the network is restored; refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.heatmaps import compute_heatmaps, iterate_heatmaps
from facespec.data.batches import Preset, apply_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models.layers import find_last_convolution
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError
from facespec.study.vocabulary import Task
from toys import make_network, random_images, randomise_norms, seeded

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("expression", "identity")
PRESET = Preset("toy", 17, 1, resize=None, shift=0, flip=False, grey_probability=0.0)
CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
CLOSE: dict[str, float] = {"rtol": 2e-5, "atol": 1e-9}  # float32 sums in another order


def make_vgg(branch_after: str | None = None, *, channels: int = 1, inplace: bool = False) -> FaceNetwork:
    network = randomise_norms(make_network(convolutions=2, branch_after=branch_after, channels=channels))
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = inplace
    return network


def draw_classes(n: int) -> dict[str, torch.Tensor]:
    return {task: torch.randint(k, (n,), generator=seeded(5)) for task, k in zip(TASKS, (7, 5), strict=True)}


def both(name: str) -> dict[str, str]:
    return dict.fromkeys(TASKS, name)


def last(network: FaceNetwork) -> dict[str, str]:
    return {task: find_last_convolution(network, task) for task in TASKS}


def make_hand_weighted() -> FaceNetwork:
    """Two units, the image and its negative; the heads' weights are round numbers."""
    network = make_network((2,), classes={"expression": 2, "identity": 3})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.trunk.norm1.weight.fill_(float(np.sqrt(1 + network.trunk.norm1.eps)))  # makes the norm the identity
        network.trunk.conv1.weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0])
        network.heads["expression"].weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 3.0]]))
        network.heads["identity"].weight.copy_(torch.tensor([[-1.0, -2.0], [1.0, 1.0], [0.0, 5.0]]))
    return network


IMAGE = torch.tensor([[[[1.0, -2.0, 0.0], [3.0, -1.0, 2.0]]]])


def test_maps_by_hand_behind_the_relu() -> None:
    """Units there: x+ and (-x)+. The head reads means of 6 cells, so that every gradient is its weight / 6."""
    network, faces = make_hand_weighted(), IMAGE.expand(3, 1, 2, 3)
    targets = {"expression": torch.tensor([0, 1, 1]), "identity": torch.tensor([0, 1, 2])}
    maps = compute_heatmaps(network, faces, both("trunk.relu1"), targets)
    first = [[2, 0, 0], [6, 0, 4]]  # 2 x+ - (-x)+ is 2 -2 0 / 6 -1 4
    second = [[0, 6, 0], [0, 3, 0]]  # -x+ + 3 (-x)+ is -1 6 0 / -3 3 -2
    torch.testing.assert_close(maps["expression"], torch.tensor([first, second, second]) / 6, **CLOSE)
    size, negative = [[1, 2, 0], [3, 1, 2]], [[0, 10, 0], [0, 5, 0]]
    blank = [[0, 0, 0], [0, 0, 0]]  # both weights of class 0 are negative
    torch.testing.assert_close(maps["identity"], torch.tensor([blank, size, negative]) / 6, **CLOSE)
    assert not maps["identity"][0].any()


def test_maps_by_hand_at_the_convolution() -> None:
    """Units there: x and -x, of which 3 and 2 of 6 cells pass the ReLU: mean gradients are 3 w0 / 36 and 2 w1 / 36.

    Class 0: (3*2 x + 2*-1 * -x) / 36 = 8 x / 36. Class 1: (3*-1 x + 2*3 * -x) / 36 = -9 x / 36.
    """
    for name in ("trunk.conv1", "trunk.norm1"):
        for code, expected in enumerate(([[8, 0, 0], [24, 0, 16]], [[0, 18, 0], [0, 9, 0]])):
            maps = compute_heatmaps(
                make_hand_weighted(), IMAGE, {"expression": name}, {"expression": torch.tensor([code])}
            )
            torch.testing.assert_close(maps["expression"], torch.tensor([expected]) / 36, **CLOSE)


def test_without_targets_the_class_with_the_largest_logit_is_explained() -> None:
    """Logits by hand: x+ sums to 6 and (-x)+ to 3, so 9/6 and 3/6; identity -12/6, 9/6, 15/6."""
    network = make_hand_weighted()
    predicted = compute_heatmaps(network, IMAGE, both("trunk.relu1"), dict.fromkeys(TASKS))
    named = {"expression": torch.tensor([0]), "identity": torch.tensor([2])}
    expected = compute_heatmaps(network, IMAGE, both("trunk.relu1"), named)
    assert all(torch.equal(predicted[task], expected[task]) and expected[task].any() for task in TASKS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("branch_after", [None, "conv2", "conv3", "conv4"])
def test_behind_the_last_convolution_it_is_the_class_activation_map(channels: int, branch_after: str | None) -> None:
    """Zhou et al.: relu(sum over units of head weight x response), per cell. Given and predicted classes."""
    network, faces = make_vgg(branch_after, channels=channels), random_images(6, channels)
    with torch.no_grad():
        shared = network.trunk(faces)
        logits = network(faces)
    for targets in (draw_classes(6), {task: out.argmax(dim=1) for task, out in logits.items()}):
        maps = compute_heatmaps(network, faces, last(network), targets)
        for task in TASKS:
            section, inputs = (network.trunk, faces) if branch_after is None else (network.branches[task], shared)
            responses = section[:-1](inputs)
            weights = network.heads[task].weight[targets[task]]
            expected = (weights[:, :, None, None] * responses).sum(dim=1).clamp(min=0) / (8 * 5)
            assert maps[task].shape == (6, 8, 5) and maps[task].dtype == torch.float32
            torch.testing.assert_close(maps[task], expected.detach(), **CLOSE)
            assert maps[task].any() and not maps[task].requires_grad


@pytest.mark.parametrize("name", ["conv1", "norm1", "relu1", "norm3", "relu3", "pool1", "conv4", "relu4"])
def test_relus_in_place_change_nothing(name: str) -> None:
    """Neither a ReLU that follows the layer, nor one that is the layer."""
    targets, names = draw_classes(3), both(f"trunk.{name}")
    expected = compute_heatmaps(make_vgg(), random_images(3), names, targets)
    maps = compute_heatmaps(make_vgg(inplace=True), random_images(3), names, targets)
    assert all(torch.equal(maps[task], expected[task]) for task in TASKS)


LAYERS = [
    ("trunk.relu1", "trunk.relu4"),
    ("trunk.conv4", "trunk.norm1"),
    ("trunk.norm3", "trunk.relu3"),
    ("trunk.norm2", "branches.identity.conv3"),
]


@pytest.mark.parametrize("names", LAYERS)
@pytest.mark.parametrize("inplace", [False, True])
def test_maps_of_two_tasks_at_different_depths_are_those_of_each_task_alone(
    names: tuple[str, str], inplace: bool
) -> None:
    branch_after = "conv2" if names[1].startswith("branches") else None
    faces, targets, layers = random_images(3), draw_classes(3), dict(zip(TASKS, names, strict=True))
    maps = compute_heatmaps(make_vgg(branch_after, inplace=inplace), faces, layers, targets)
    assert list(maps) == list(TASKS)
    for task in TASKS:
        alone = compute_heatmaps(make_vgg(branch_after), faces, {task: layers[task]}, {task: targets[task]})
        assert torch.equal(maps[task], alone[task]) and maps[task].any()


def test_one_pass_through_the_trunk_serves_both_tasks() -> None:
    network, calls = make_vgg("conv3"), []
    for name in ("conv1", "relu3"):
        network.get_submodule(f"trunk.{name}").register_forward_hook(lambda *_: calls.append(1))
    compute_heatmaps(network, random_images(3), last(network), draw_classes(3))
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["trunk.conv2", "trunk.relu4"])
def test_a_map_depends_on_one_image_only(name: str) -> None:
    """Close: sums of other batches may run in another order."""
    network, faces, targets = make_vgg(), random_images(7), draw_classes(7)
    expected = compute_heatmaps(network, faces, both(name), targets)
    for i in range(7):
        target = {task: classes[i : i + 1] for task, classes in targets.items()}
        for task, alone in compute_heatmaps(network, faces[i : i + 1], both(name), target).items():
            torch.testing.assert_close(alone[0], expected[task][i], rtol=1e-4, atol=1e-8)


class RefusingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, responses: torch.Tensor) -> torch.Tensor:
        return responses.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a gradient was computed below the layer")


class GradientBarrier(nn.Module):
    def forward(self, responses: torch.Tensor) -> torch.Tensor:
        return RefusingFunction.apply(responses)


def test_nothing_below_the_layer_gets_a_gradient() -> None:
    network, faces = make_vgg(), random_images(3).requires_grad_()
    network.trunk.relu2 = GradientBarrier()
    with pytest.raises(RuntimeError, match="a gradient was computed below the layer"):
        network(faces)["identity"].sum().backward()
    network.zero_grad()
    for names in (both("trunk.relu2"), {"expression": "trunk.pool1", "identity": "trunk.relu4"}):
        compute_heatmaps(network, faces, names, draw_classes(3))
        compute_heatmaps(network, faces.detach(), names, draw_classes(3))
    assert faces.grad is None and all(parameter.grad is None for parameter in network.parameters())


WRONG: dict[str, Any] = {
    "nothing": {},
    "layer": {"layers": both("trunk.nowhere")},
    "no map": {"layers": both("trunk.average")},
    "image": {"images": torch.zeros(3, 1, 1, 1)},
    "class": {"targets": draw_classes(3) | {"identity": torch.full((3,), 9)}},
}


@pytest.mark.parametrize("case", WRONG)
def test_the_network_is_restored(case: str) -> None:
    """No hook remains, and the same parameters have gradients, also after an error."""
    network = make_vgg()
    network.trunk.conv1.weight.requires_grad_(False)
    expected = {name: (parameter.requires_grad, parameter.clone()) for name, parameter in network.named_parameters()}
    options = {"images": random_images(3), "layers": both("trunk.relu3"), "targets": draw_classes(3)} | WRONG[case]
    try:
        compute_heatmaps(network, **options)
        assert not WRONG[case]
    except StudyError:
        assert WRONG[case]
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == expected[name][0] == (name != "trunk.conv1.weight")
        assert torch.equal(parameter, expected[name][1]) and parameter.grad is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_maps_are_the_same_while_gradients_are_off(context: Any) -> None:
    network = make_vgg()
    expected = compute_heatmaps(network, random_images(3), last(network), draw_classes(3))
    with context():
        maps = compute_heatmaps(network, random_images(3), last(network), draw_classes(3))
        assert not torch.is_grad_enabled()
    assert all(torch.equal(maps[task], expected[task]) for task in TASKS)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Thirteen noisy faces of 17x17 px in shards of five."""
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (13, 17, 17), dtype=np.uint8)
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(13)]})
    labels = labels.assign(split="test", identity="", expression="", view="", session="")
    chunk, description = FaceChunk(images, labels), FaceSetDescription("probe", 5, None, {"source": "toy"})
    return write_faceset(tmp_path_factory.mktemp("heatmaps") / "faces", [chunk], description)


ORDER = np.array([12, 3, 3, 0, 7, 1, 11])


def collect_maps(network: FaceNetwork, faces: FaceSet, **changes: Any) -> dict[str, np.ndarray]:
    targets: Mapping[str, np.ndarray | None] = changes.pop(
        "targets", {t: c.numpy() for t, c in draw_classes(7).items()}
    )
    options = {"preset": PRESET, "batch_size": 3, "device": CPU} | changes
    batches = list(iterate_heatmaps(network, faces, ORDER, last(network), targets, **options))
    return {task: np.concatenate([batch[task] for batch in batches]) for task in targets}


@pytest.mark.parametrize("targets", ["labelled", "predicted"])
def test_faces_are_explained_in_their_order_whatever_the_batches(faces: FaceSet, targets: str) -> None:
    network = make_vgg()
    tensors = draw_classes(7) if targets == "labelled" else dict.fromkeys(TASKS)
    expected = compute_heatmaps(network, apply_preset(faces.images(ORDER), PRESET, None), last(network), tensors)
    codes = {task: None if target is None else target.numpy() for task, target in tensors.items()}
    for batch_size in (1, 3, 100):
        for task, maps in collect_maps(network, faces, targets=codes, batch_size=batch_size).items():
            assert maps.shape == (7, 8, 8) and maps.dtype == np.float32
            np.testing.assert_allclose(maps, expected[task], rtol=1e-4, atol=1e-8)


def test_maps_are_bit_equal_when_computed_again(faces: FaceSet) -> None:
    first, again = collect_maps(make_vgg(), faces), collect_maps(make_vgg(), faces)
    assert all(first[task].tobytes() == again[task].tobytes() for task in TASKS)


def test_one_batch_is_read_at_a_time_and_the_mode_is_restored(faces: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    network, sizes = make_vgg().train(), []
    network.trunk.norm1.eval()
    images = FaceSet.images
    monkeypatch.setattr(FaceSet, "images", lambda self, indices: sizes.append(len(indices)) or images(self, indices))
    batches = iterate_heatmaps(
        network, faces, ORDER, last(network), dict.fromkeys(TASKS), preset=PRESET, batch_size=3, device=CPU
    )
    assert len(next(batches)["identity"]) == 3 and sizes == [3] and not network.training
    batches.close()  # before the last batch
    assert network.training and not network.trunk.norm1.training


@GPU
def test_a_gpu_makes_the_same_maps(faces: FaceSet) -> None:
    """Close to float32 sums in another order; full float32 is assumed, so TF32 is off."""
    network = make_vgg()
    on_cpu, on_gpu = collect_maps(network, faces), collect_maps(network, faces, device=torch.device("cuda"))
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    for task in TASKS:
        np.testing.assert_allclose(on_gpu[task], on_cpu[task], rtol=2e-3, atol=2e-3 * on_cpu[task].max())


NO_READ = "the head of 'expression' does not read layer 'branches.identity.relu3': its maps would be empty"
ELSEWHERE = "branches.identity.relu3"


@pytest.mark.parametrize(
    ("branch_after", "layers", "targets", "message"),
    [
        (None, both("trunk.relu9"), draw_classes(3), "no layer 'trunk.relu9': did you mean 'trunk.relu4'? Allowed"),
        (None, {"identities": "trunk.relu4"}, {"identities": None}, "task 'identities': did you mean 'identity'?"),
        (
            None,
            both("trunk.average"),
            draw_classes(3),
            "layer 'trunk.average' has responses of shape (3, 6): no map in them",
        ),
        ("conv2", {"expression": ELSEWHERE}, {"expression": None}, NO_READ),
        ("conv2", both(ELSEWHERE), draw_classes(3), NO_READ),
        ("conv2", {Task.EXPRESSION: ELSEWHERE, Task.IDENTITY: "trunk.relu1"}, draw_classes(3), NO_READ),
        (None, {}, {}, "layers for [] and targets for []: name at least one task, and each in both"),
        (
            None,
            {Task.IDENTITY: "trunk.relu4"},
            draw_classes(3),
            "layers for ['identity'] and targets for ['expression', 'id",
        ),
        (
            None,
            both("trunk.relu4"),
            draw_classes(2),
            "targets of 'expression': torch.int64 of shape (2,), expected int64 (3,)",
        ),
        (
            None,
            both("trunk.relu4"),
            draw_classes(3) | {"identity": torch.zeros(3)},
            "targets of 'identity': torch.float32 of shape (3,), expected int64 (3,)",
        ),
        (
            None,
            both("trunk.relu4"),
            draw_classes(3) | {"identity": torch.tensor([1, 5, 0])},
            "targets of 'identity' lie in 0 ... 5; the head has 5 classes",
        ),
        (
            None,
            both("trunk.relu4"),
            draw_classes(3) | {"identity": torch.tensor([1, -1, 4])},
            "targets of 'identity' lie in -1 ... 4; the head has 5 classes",
        ),
    ],
)
def test_impossible_layers_tasks_and_classes_are_refused(
    branch_after: str | None, layers: dict[str, str], targets: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        compute_heatmaps(make_vgg(branch_after), random_images(3), layers, targets)


def test_every_face_needs_a_class(faces: FaceSet) -> None:
    with pytest.raises(StudyError, match="targets of 'identity': 8 classes for 7 images"):
        collect_maps(make_vgg(), faces, targets={"expression": None, "identity": np.zeros(8, dtype=np.int64)})


def test_without_images_there_are_no_maps(faces: FaceSet) -> None:
    maps = compute_heatmaps(make_vgg(), random_images(0), both("trunk.relu3"), draw_classes(0))
    assert {task: tuple(empty.shape) for task, empty in maps.items()} == dict.fromkeys(TASKS, (0, 8, 5))
    options = {"preset": PRESET, "batch_size": 3, "device": CPU}
    no_rows, targets = np.array([], dtype=np.int64), dict.fromkeys(TASKS)
    assert list(iterate_heatmaps(make_vgg(), faces, no_rows, both("trunk.relu3"), targets, **options)) == []
