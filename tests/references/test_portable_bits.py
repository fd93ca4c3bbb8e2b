"""Do the operations of the pipeline give the bits that were recorded on other machines?

Recorded on an AMD EPYC (family 25, model 17, with AVX-512) and equal on an Intel Haswell without AVX-512, emulated by
QEMU 10. A digest that differs here is a fault of the portable code path: see docs/portability.md. Inputs are integers
divided by an integer, so that they are the same everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from facespec.analyses.preferred import Recipe, optimise_stimuli
from facespec.data.batches import make_small_preset
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.code_path import get_code_path
from facespec.study.params import NetworkBlock
from facespec.study.seeds import generator

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not get_code_path().portable, reason=f"other bits are expected here: {get_code_path().reason}"),
]
Arrays = list[np.ndarray | torch.Tensor]


def make_array(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(-512, 512, shape) / 771


def make_tensor(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(make_array(*shape, seed=seed)).float()


def digest(arrays: Arrays) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array.detach() if isinstance(array, torch.Tensor) else array).tobytes())
    return sha.hexdigest()[:16]


def make_network() -> FaceNetwork:
    block = NetworkBlock(trunk="small_vgg", channels=[16, 32, 64, 128], convolutions=1, branch_after=None)
    network = build_network(
        block, {"expression": 7, "identity": 100}, channels=1, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            if parameter.ndim > 1:  # in place of random numbers
                parameter.copy_(make_tensor(*parameter.shape, seed=number) / parameter[0].numel() ** 0.5)
    return network


def training() -> Arrays:
    """Ten steps of the default joint network, with the fused pass and the fused optimiser."""
    model = make_network().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01, fused=True)
    for step in range(10):
        images = {task: make_tensor(16, 1, 48, 48, seed=2 * step + i) for i, task in enumerate(model.tasks)}
        logits = model.compute_logits(images)
        classes = torch.arange(16) % 7
        loss = sum(functional.cross_entropy(each, classes, label_smoothing=0.1) for each in logits.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*model.state_dict().values()]


def logits_and_gradients() -> Arrays:
    """Logits and gradients of maps in evaluation mode, as in heatmaps and recordings."""
    model = make_network().eval()
    maps = model.trunk[:-1](make_tensor(9, 1, 48, 48))
    logits = model.heads["identity"](maps.mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits.sum(), maps)
    heatmap = functional.relu((maps * gradient.mean((2, 3), keepdim=True)).sum(1))
    large = functional.interpolate(heatmap[:, None], size=(48, 48), mode="bilinear")
    return [logits, gradient, large, logits.softmax(1), logits.log_softmax(1), logits.logsumexp(1)]


def large_convolutions() -> Arrays:
    """The sizes of VGG16, whose blocking depends on the caches in some kernels."""
    arrays: Arrays = []
    for units, px, n in ((256, 28, 2), (512, 14, 4)):
        weights = (make_tensor(units, units, 3, 3, seed=3) / 8).requires_grad_()
        maps = functional.conv2d(
            make_tensor(n, units, px, px).to(memory_format=torch.channels_last), weights, padding=1
        )
        (gradient,) = torch.autograd.grad(maps.square().sum() / 64, weights)
        arrays += [maps, gradient]
    return [*arrays, functional.linear(make_tensor(64, 25088, seed=2), make_tensor(128, 25088, seed=3))]


def preferred() -> Arrays:
    recipe, streams = Recipe(steps=8, starts=3, batch_size=8), {unit: generator(3, str(unit)) for unit in range(8)}
    stimuli = optimise_stimuli(
        make_network(),
        "trunk.conv3",
        streams,
        preset=make_small_preset(48, 1),
        recipe=recipe,
        device=torch.device("cpu"),
    )
    return [stimuli.images, stimuli.response, stimuli.course]


def resizing() -> Arrays:
    size = (41, 37)
    faces = torch.from_numpy((make_array(4, 3, 64, 48) * 128 + 128).astype(np.uint8))
    return [functional.interpolate(each, size=size, mode="bilinear", antialias=True) for each in (faces, faces.float())]


def decoding() -> Arrays:
    features, classes = make_array(301, 64, seed=4), np.arange(301) % 7
    fits = [LogisticRegression(max_iter=300).fit(features.astype(kind), classes) for kind in (np.float32, np.float64)]
    return [fit.coef_ for fit in fits]


def matrices() -> Arrays:
    left, right = make_array(301, 257, seed=4), make_array(257, 143, seed=5)
    square = left.T @ left + np.eye(257)
    products = [left @ right, left.astype(np.float32) @ right.astype(np.float32), np.einsum("ij,jk->ik", left, right)]
    tensors = [torch.from_numpy(left) @ torch.from_numpy(right), make_tensor(7, 33, 65) @ make_tensor(7, 65, 17)]
    solved = [
        np.linalg.solve(square, right),
        np.linalg.svd(left[:60, :40], compute_uv=False),
        np.linalg.eigvalsh(square),
    ]
    return [*products, *tensors, *solved, *np.linalg.qr(left)]


def functions() -> Arrays:
    single = np.abs(make_array(10_003, seed=6)).astype(np.float32)
    double = single.astype(np.float64)
    elementwise = [f(kind) for f in (np.exp, np.log1p, np.sin, np.tanh, np.sqrt) for kind in (single, double)]
    sums = [single.sum(), double.sum(), make_array(257, 143).mean(0), make_array(257, 143).std(1)]
    special = [scipy.special.ndtri(double * 0.9 + 0.01), scipy.special.betainc(2.5, 7.0, double)]
    torchs = [f(torch.from_numpy(single)) for f in (torch.exp, torch.sigmoid, torch.tanh, torch.sin, torch.rsqrt)]
    norm = nn.BatchNorm2d(5)
    return [*elementwise, *sums, *special, *torchs, torch.from_numpy(single).sum(), norm(make_tensor(8, 5, 7, 7))]


RECORDED: dict[Callable[[], Arrays], str] = {
    training: "5e6c50c050bbc20a",
    logits_and_gradients: "3a183eea12e21a09",
    large_convolutions: "3dcc1b5b082c1b10",
    preferred: "376405b42e2357a9",
    resizing: "107eb104859e9880",
    decoding: "2cfaa2ba823b02ef",
    matrices: "ffa7509ae91ac39a",
    functions: "d3f837e64fb863b7",
}


@pytest.mark.parametrize("compute", RECORDED, ids=lambda compute: compute.__name__)
def test_the_bits_are_those_of_other_machines(compute: Callable[[], Arrays]) -> None:
    assert digest(compute()) == RECORDED[compute]


def test_the_square_root_that_is_not_used() -> None:
    """IEEE 754's root is the nearest float; torch's of float32, which is MKL's, was not on any machine so far."""
    values = torch.arange(1, 1000, dtype=torch.float32) / 7
    exact = np.sqrt(values.numpy())
    assert np.array_equal(torch.from_numpy(values.numpy().astype(np.float64)).sqrt().float().numpy(), exact)
    if "mkl" in torch.__config__.show().lower():
        assert not np.array_equal(values.sqrt().numpy(), exact), (
            "torch.sqrt is exact now: drop the rule in test_house.py"
        )
