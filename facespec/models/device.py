"""On which device does a network run, and with which settings of torch do its numbers come out the same?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.threads import limit_threads

DEVICES = ("auto", "cpu", "cuda")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one. Raises `StudyError` for a GPU that is missing."""
    if name not in DEVICES:
        raise StudyError(f"unknown device {name!r}: {suggest_spelling(name, DEVICES)}")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        reason = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"
        raise StudyError(f"device 'cuda' was asked for, but {reason}. Use 'cpu', or 'auto' to take what is there.")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


@contextmanager
def deterministic_torch(threads: int | None = 1) -> Iterator[None]:
    """Inside the context, equal inputs give equal bits; all settings are restored at the end, also after an error.

    Sets deterministic kernels, no benchmarking of kernels, full float32 precision (no TF32), a fixed cuBLAS workspace,
    and the number of threads.

    Parameters
    ----------
    threads : int or None
        Threads of torch and of the linear algebra library of numpy and scikit-learn; None leaves them as they are.

    Notes
    -----
    The same library versions give the same bits on one kind of processor or GPU, and with the portable code path
    (`study.code_path`) on every x86-64 processor with AVX2. With one thread, the default, the number of cores does not
    matter; another number of threads adds floats in another order: close, not equal. One thread per network costs
    little: small networks gain little from more, and several networks are fitted at once.

    On a GPU, enter the context before the process's first matrix product: cuBLAS reads its workspace setting once.

    Examples
    --------
    >>> with deterministic_torch():
    ...     torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    (True, 1)
    """
    with ExitStack() as stack:
        _set_switches(stack)
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
            stack.enter_context(limit_threads(threads))
        yield


def _set_switches(stack: ExitStack) -> None:
    """Set every switch of torch; `stack` restores them when it is closed."""
    enabled, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    stack.callback(torch.use_deterministic_algorithms, enabled, warn_only=warn)
    torch.use_deterministic_algorithms(True)
    cudnn: Any = torch.backends.cudnn  # the types of these modules lack the attributes
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
    for module, name, value in switches:
        stack.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)
    if WORKSPACE not in os.environ:
        stack.callback(os.environ.pop, WORKSPACE, None)
        os.environ[WORKSPACE] = ":4096:8"


@contextmanager
def on_device(network: nn.Module, device: torch.device, *, training: bool) -> Iterator[None]:
    """Inside the context, `network` is on `device`, in training or evaluation mode.

    At the end, also after an error, the network returns to its device and every module to its mode.

    Parameters
    ----------
    network : Module
        With at least one parameter; all parameters on one device.
    device : torch.device
    training : bool
        The mode of all modules inside the context.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout())
    >>> with on_device(network, torch.device("cpu"), training=False):
    ...     network.training, network[1].training
    (False, False)
    >>> network.training
    True
    """
    modes = {module: module.training for module in network.modules()}
    original_device = next(network.parameters()).device
    try:
        network.to(device)
        network.train(training)
        yield
    finally:
        network.to(original_device)
        for module, mode in modes.items():
            module.training = mode
