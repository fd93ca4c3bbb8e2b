"""Devices are picked by name; determinism is switched on for a while; networks are lent and come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from facespec.models.device import WORKSPACE, deterministic_torch, on_device, pick_device
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
CPU = torch.device("cpu")


def made(seed: int = 1) -> FaceNetwork:
    block = NetworkBlock(trunk="small_vgg", channels=[8, 16], convolutions=2, branch_after=None)
    classes = {"expression": 7, "identity": 5}
    return build_network(block, classes, channels=1, generator=torch.Generator().manual_seed(seed))


def images(n: int = 16) -> torch.Tensor:
    return torch.rand((n, 1, 33, 27), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("there", "wanted"),
    [(True, {"auto": "cuda", "cpu": "cpu", "cuda": "cuda"}), (False, {"auto": "cpu", "cpu": "cpu"})],
)
def test_a_device_by_name(monkeypatch: pytest.MonkeyPatch, there: bool, wanted: dict[str, str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert {name: pick_device(name).type for name in wanted} == wanted


@pytest.mark.parametrize(
    ("built_for", "reason"), [(None, "this torch was built without CUDA"), ("13.0", "torch finds no CUDA GPU")]
)
def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, built_for: str | None, reason: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(StudyError) as caught:
        pick_device("cuda")
    assert str(caught.value) == (
        f"device 'cuda' was asked for, but {reason}. Use 'cpu', or 'auto' to take what is there."
    )


def test_an_unknown_device() -> None:
    with pytest.raises(StudyError) as caught:
        pick_device("gpu")
    assert str(caught.value) == "unknown device 'gpu': did you mean 'cpu'? Allowed: 'auto', 'cpu', 'cuda'."


def switches() -> dict[str, Any]:
    """Everything that decides which numbers come out."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": cudnn.benchmark,
        "cudnn": cudnn.deterministic,
        "precision": [
            torch.backends.cuda.matmul.fp32_precision,
            cudnn.conv.fp32_precision,
            mkldnn.matmul.fp32_precision,
            mkldnn.conv.fp32_precision,
        ],
        "threads": torch.get_num_threads(),
        "blas": sorted(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"),
        "workspace": os.environ.get(WORKSPACE),
    }


@pytest.fixture
def relaxed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Every switch as `deterministic` would not have it."""
    before = switches()
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(3)
    yield switches()
    torch.set_num_threads(before["threads"])
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["only warn"])


def test_everything_is_switched_on_and_back(relaxed: dict[str, Any]) -> None:
    with deterministic_torch(threads=2):
        inside = switches()
    assert inside | {"blas": None} == {
        "deterministic": True,
        "only warn": False,
        "fill": False,
        "benchmark": False,
        "cudnn": True,
        "precision": ["ieee"] * 4,
        "threads": 2,
        "blas": None,
        "workspace": ":4096:8",
    }
    assert set(inside["blas"]) <= {1, 2}
    assert switches() == relaxed


def test_everything_is_switched_back_after_an_error(relaxed: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError), deterministic_torch(), deterministic_torch(threads=2):
        raise ZeroDivisionError
    assert switches() == relaxed


def test_everything_is_switched_back_when_switching_fails(
    relaxed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 3)
        patch.setattr(torch, "set_num_threads", broken)
        with pytest.raises(RuntimeError), deterministic_torch(threads=2):
            pass
    assert switches() == relaxed


def test_threads_stay_as_they_are_if_not_asked_for(relaxed: dict[str, Any]) -> None:
    with deterministic_torch(threads=None):
        assert (switches()["threads"], switches()["blas"]) == (3, relaxed["blas"])
    with deterministic_torch():
        assert switches()["threads"] == 1


def test_a_workspace_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with deterministic_torch():
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


def gradients(device: torch.device) -> dict[str, torch.Tensor]:
    """Logits and gradients of one training step, on the CPU again."""
    network = made().to(device).train()
    logits = network(images().to(device))
    loss = sum(out.logsumexp(1).mean() - out[:, 1].mean() for out in logits.values())
    loss.backward()
    own = {name: parameter.grad.cpu() for name, parameter in network.named_parameters() if parameter.grad is not None}
    return own | {task: out.detach().cpu() for task, out in logits.items()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_the_same_step_twice_gives_the_same_bits(device: str) -> None:
    with deterministic_torch():
        once, twice = gradients(torch.device(device)), gradients(torch.device(device))
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())
    assert len(once) == len(list(made().parameters())) + 2


@GPU
def test_cpu_and_gpu_agree() -> None:
    """To float32 sums of at most 9 x 16 terms in convolutions and 16 x 33 x 27 in batch norm, in another order."""
    with deterministic_torch():
        here, there = gradients(CPU), gradients(torch.device("cuda"))
    for name, tensor in here.items():
        torch.testing.assert_close(there[name], tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max()) + 1e-7)


def modes(network: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in network.named_modules()}


def devices(network: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("away", ["cpu", "meta", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("fails", [True, False])
def test_a_borrowed_network_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, training: bool, away: str, fails: bool
) -> None:
    """Every module in its own mode, frozen ones too, and the network on its own device, also after an error.

    From ``meta``, which holds no numbers, nothing can be moved back; there the moves alone are watched.
    """
    network = made().train()
    network.trunk.norm1.eval()
    before, moves = modes(network), []
    if away == "meta":
        monkeypatch.setattr(network, "to", lambda device: moves.append(str(device)))
    try:
        with on_device(network, torch.device(away), training=training):
            assert set(modes(network).values()) == {training}
            assert devices(network) == {"cpu" if away == "meta" else away}
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert modes(network) == before
    assert devices(network) == {"cpu"}
    assert moves == (["meta", "cpu"] if away == "meta" else [])


def test_a_network_that_cannot_move_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made().train()
    original = network.to

    def full(device: torch.device) -> nn.Module:
        if device.type == "cuda":
            raise RuntimeError("out of memory")
        return original(device)

    monkeypatch.setattr(network, "to", full)
    with pytest.raises(RuntimeError, match="out of memory"), on_device(network, torch.device("cuda"), training=False):
        pass
    assert network.training and devices(network) == {"cpu"}
