"""Where a network runs, and under which rules its numbers come out the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from facespec.study.errors import StudyError, suggest_spelling

DEVICES = ("auto", "cpu", "cuda")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one. `StudyError` for a GPU that is not there."""
    if name not in DEVICES:
        raise StudyError(f"unknown device {name!r}: {suggest_spelling(name, DEVICES)}")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        reason = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"
        raise StudyError(f"device 'cuda' was asked for, but {reason}. Use 'cpu', or 'auto' to take what is there.")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


@contextmanager
def deterministic_torch(threads: int | None = 1) -> Iterator[None]:
    """Inside, equal inputs give equal bits; all is restored at the end, also after an error.

    Deterministic kernels only, no benchmarking of kernels, full float32 (no TF32), a fixed cuBLAS workspace, and
    `threads` threads for torch and for the linear algebra beneath numpy and scikit-learn (None: as many as they like).

    What holds: the same library versions give the same bits on one kind of processor or GPU, and on the portable code
    path (`study.code_path`) on every x86-64 processor with AVX2. With one thread, the default, the number of cores does
    not matter; another number of threads adds floats in another order: close, not equal. One thread per network is no
    loss: small networks gain little from more, and several networks are fitted at once.

    On a GPU, enter before the process's first matrix product: cuBLAS reads its workspace setting once.
    """
    with ExitStack() as undo:
        _switch_on(undo)
        if threads is not None:
            undo.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
            undo.enter_context(threadpool_limits(threads, user_api="blas"))
        yield


def _switch_on(undo: ExitStack) -> None:
    """Set every switch, leaving in `undo` what sets it back."""
    enabled, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    undo.callback(torch.use_deterministic_algorithms, enabled, warn_only=warn)
    torch.use_deterministic_algorithms(True)
    cudnn: Any = torch.backends.cudnn  # what its modules hold is not in its types
    mkldnn: Any = torch.backends.mkldnn
    switches: list[tuple[Any, str, Any]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),  # would cost time and change no result
        (cudnn, "benchmark", False),
        (cudnn, "deterministic", True),
        (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
        (cudnn.conv, "fp32_precision", "ieee"),
        (mkldnn.matmul, "fp32_precision", "ieee"),
        (mkldnn.conv, "fp32_precision", "ieee"),
    ]
    for owner, name, value in switches:
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)
    if WORKSPACE not in os.environ:
        undo.callback(os.environ.pop, WORKSPACE, None)
        os.environ[WORKSPACE] = ":4096:8"


@contextmanager
def on_device(network: nn.Module, device: torch.device, *, training: bool) -> Iterator[None]:
    """Lend `network` to `device` in training or evaluation mode; every module gets its mode and device back."""
    modes = {module: module.training for module in network.modules()}
    home = next(network.parameters()).device
    try:
        network.to(device)
        network.train(training)
        yield
    finally:
        network.to(home)
        for module, mode in modes.items():
            module.training = mode
