"""Devices are chosen by name; settings and the device and mode of a network are restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from facespec.models.device import WORKSPACE, deterministic_torch, on_device, pick_device
from facespec.study.errors import StudyError
from toys import make_network, random_images

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("available", "expected"),
    [(True, {"auto": "cuda", "cpu": "cpu", "cuda": "cuda"}), (False, {"auto": "cpu", "cpu": "cpu"})],
)
def test_a_device_by_name(monkeypatch: pytest.MonkeyPatch, available: bool, expected: dict[str, str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert {name: pick_device(name).type for name in expected} == expected


@pytest.mark.parametrize(
    ("cuda_version", "reason"), [(None, "this torch was built without CUDA"), ("13.0", "torch finds no CUDA GPU")]
)
def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, cuda_version: str | None, reason: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda_version)
    with pytest.raises(StudyError, match=f"'cuda' was asked for, but {reason}. Use 'cpu', or 'auto'"):
        pick_device("cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(StudyError, match="unknown device 'gpu': did you mean 'cpu'"):
        pick_device("gpu")


def read_switches() -> dict[str, Any]:
    """All settings that determine the bits of results."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": cudnn.benchmark,
        "cudnn": cudnn.deterministic,
        "precision": [
            backend.fp32_precision for backend in (torch.backends.cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv)
        ],
        "threads": torch.get_num_threads(),
        "blas": sorted(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"),
        "workspace": os.environ.get(WORKSPACE),
    }


@pytest.fixture
def opposite(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Every switch set as `deterministic_torch` would not set it."""
    before = read_switches()
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(3)
    yield read_switches()
    torch.set_num_threads(before["threads"])
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn only"])


def test_all_switches_are_set_and_restored(opposite: dict[str, Any]) -> None:
    with deterministic_torch(threads=2):
        inside = read_switches()
    assert set(inside.pop("blas")) <= {1, 2}
    assert inside == {
        "deterministic": True,
        "warn only": False,
        "fill": False,
        "benchmark": False,
        "cudnn": True,
        "precision": ["ieee"] * 4,
        "threads": 2,
        "workspace": ":4096:8",
    }
    assert read_switches() == opposite


def test_all_switches_are_restored_after_an_error(opposite: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError), deterministic_torch(), deterministic_torch(threads=2):
        raise ZeroDivisionError
    assert read_switches() == opposite


def test_all_switches_are_restored_if_one_cannot_be_set(
    opposite: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 3)
        patch.setattr(torch, "set_num_threads", fail)
        with pytest.raises(RuntimeError), deterministic_torch(threads=2):
            pass
    assert read_switches() == opposite


def test_the_number_of_threads_is_optional(opposite: dict[str, Any]) -> None:
    with deterministic_torch(threads=None):
        assert (read_switches()["threads"], read_switches()["blas"]) == (3, opposite["blas"])
    with deterministic_torch():
        assert read_switches()["threads"] == 1


def test_a_workspace_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with deterministic_torch():
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


def run_training_step(device: torch.device) -> dict[str, torch.Tensor]:
    """Logits and gradients, on the CPU."""
    network = make_network((8, 16), convolutions=2).to(device).train()
    logits = network(random_images(16, height=33, width=27).to(device))
    sum(values.logsumexp(1).mean() - values[:, 1].mean() for values in logits.values()).backward()
    results = {name: parameter.grad.cpu() for name, parameter in network.named_parameters()}
    return results | {task: values.detach().cpu() for task, values in logits.items()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_the_same_step_twice_gives_the_same_bits(device: str) -> None:
    with deterministic_torch():
        first, second = run_training_step(torch.device(device)), run_training_step(torch.device(device))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert len(first) == 4 * 3 + 4 + 2  # weights of convolutions and norms, heads, logits


@GPU
def test_cpu_and_gpu_agree() -> None:
    """To float32 sums of at most 9 x 16 terms in convolutions and 16 x 33 x 27 in batch norm, in another order."""
    with deterministic_torch():
        on_cpu, on_gpu = run_training_step(CPU), run_training_step(torch.device("cuda"))
    for name, tensor in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max()) + 1e-7)


def list_modes(network: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in network.named_modules()}


def list_devices(network: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("fails", [True, False])
def test_a_network_returns_to_its_device_and_its_modes(
    monkeypatch: pytest.MonkeyPatch, training: bool, device: str, fails: bool
) -> None:
    """Every module in its own mode, frozen ones too, and also after an error.

    From ``meta``, which holds no numbers, nothing can be moved back; there the calls of `to` are recorded instead.
    """
    network = make_network().train()
    network.trunk.norm1.eval()
    before, moves = list_modes(network), []
    if device == "meta":
        monkeypatch.setattr(network, "to", lambda target: moves.append(str(target)))
    try:
        with on_device(network, torch.device(device), training=training):
            assert set(list_modes(network).values()) == {training}
            assert list_devices(network) == {"cpu" if device == "meta" else device}
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert list_modes(network) == before
    assert list_devices(network) == {"cpu"}
    assert moves == (["meta", "cpu"] if device == "meta" else [])


def test_a_network_that_cannot_be_moved_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network().train()
    original = network.to

    def fail_on_gpu(device: torch.device) -> nn.Module:
        if device.type == "cuda":
            raise RuntimeError("out of memory")
        return original(device)

    monkeypatch.setattr(network, "to", fail_on_gpu)
    with pytest.raises(RuntimeError, match="out of memory"), on_device(network, torch.device("cuda"), training=False):
        pass
    assert network.training and list_devices(network) == {"cpu"}
