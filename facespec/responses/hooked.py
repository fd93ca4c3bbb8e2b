"""Lesions by whole forward passes, with a hook on the layer: for networks and layers that cannot be cut.

Slower than `responses.lesioned`, and exact for any `forward`: branching on values, layers that are called several times
(their units are lesioned in each call), and token layers of transformers, (n, tokens, units).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facespec.models.copies import copy_or_share, shares_state
from facespec.models.layers import get_layer
from facespec.models.tracing import NORMS, OTHER_NORMS, UncutLayer
from facespec.responses.lesioned import LesionBatch, LesionedNetwork, Logits, check_finite, check_lesions
from facespec.responses.units import find_unit_axis
from facespec.study.errors import StudyError


def lesion_network(network: nn.Module, layer: str, images: torch.Tensor) -> Lesioned:
    """`network` with units of `layer` lesioned: cut by torch.fx where that is possible, else by whole forward passes.

    `images` are a few that the network takes. Raises `StudyError` where units cannot be silenced either way.
    """
    images = images.to(next(network.parameters()).device)
    axis = find_unit_axis(network, layer, images)
    try:
        lesioned = LesionedNetwork(network, layer)
        batch = lesioned.prepare_batch(images)
        if axis != 1:
            raise UncutLayer(f"the units of layer {layer!r} are dimension {axis} of {tuple(batch.responses.shape)}.")
    except UncutLayer as reason:
        return HookedNetwork(network, layer, reason=str(reason))
    return lesioned


class HookedNetwork:
    """A network with units of one layer lesioned in many ways, by one forward pass per lesion.

    Units are set to 0 in the output of `layer` itself, every time it is called. The network is not changed.

    Parameters
    ----------
    network : Module
        Any module that returns a dict of logits, task -> (n, classes). It is run in evaluation mode.
    layer : str
        Dotted name of a module with responses (n, units, ...) or (n, ..., units), see `responses.units`.
    reason : str
        Why the network is not cut.

    Raises
    ------
    StudyError
        For an unknown layer; in `prepare_batch`, where it is not known which dimension the units are, and for a norm
        that reads the layer's output and makes other numbers of lesioned units than 0.

    See Also
    --------
    responses.lesioned.LesionedNetwork : The same, faster, for networks that torch.fx can trace.

    Examples
    --------
    >>> class Branching(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.units = nn.Linear(2, 3)
    ...     def forward(self, images):
    ...         return {"size": self.units(images if images.sum() > 0 else -images)}
    >>> with torch.random.fork_rng():
    ...     lesioned = HookedNetwork(Branching(), "units")
    >>> batch = lesioned.prepare_batch(torch.ones(4, 2))
    >>> ((part, logits),) = lesioned.compute_logits(batch, torch.tensor([[True, False, True]]))
    >>> logits["size"][0, :, [0, 2]].any().item(), tuple(logits["size"].shape)
    (False, (1, 4, 3))
    """

    has_closed_form = False

    def __init__(self, network: nn.Module, layer: str, *, reason: str = "") -> None:
        get_layer(network, layer, sections=True)
        self.layer, self.reason = layer, reason
        self._original = network
        self._network = copy_or_share(network)
        self._device = next(network.parameters()).device
        self._from_end = -1  # dimension of the units, counted from the last, -1; known from the first batch on

    @property
    def can_be_copied(self) -> bool:
        """Whether `copy` gives a network that shares nothing that changes in a forward pass."""
        return not shares_state(self._original)

    def copy(self) -> HookedNetwork:
        """The same with modules of its own, for another thread; weights are shared."""
        other = copy.copy(self)
        other._network = copy_or_share(self._original)
        return other

    @torch.no_grad()
    def prepare_batch(self, images: torch.Tensor) -> LesionBatch:
        """Record what the layer responds to `images`, in its last call; nothing else is computed once for all."""
        images = images.to(self._device)
        outputs: list[Any] = []
        axis = find_unit_axis(self._network, self.layer, images[:1])
        with _hook(self._module, lambda module, inputs, output: outputs.append(output)):
            self._network(images.clone())  # a network may normalise them in place
        responses = outputs[-1]
        self._from_end = axis - responses.ndim
        self._check_norms(images[:1], responses.shape[axis])
        return LesionBatch({"images": images}, responses.movedim(axis, 1), responses.numel() // len(images))

    @torch.no_grad()
    def compute_logits(self, batch: LesionBatch, lesions: torch.Tensor) -> Iterator[tuple[slice, Logits]]:
        """As `LesionedNetwork.compute_logits`, one lesion at a time."""
        for number, lesion in enumerate(check_lesions(lesions, batch)):
            with _hook(self._module, lambda module, inputs, output, lesion=lesion: self._silence(output, lesion)):
                answers = self._network(batch.values["images"].clone())
            logits = {task: values[None] for task, values in answers.items()}
            check_finite(self.layer, lesion[None], logits)
            yield slice(number, number + 1), logits

    def compute_single_lesions(
        self, batch: LesionBatch, base_lesion: torch.Tensor, units: torch.Tensor
    ) -> Iterator[tuple[slice, Logits]]:
        """As `LesionedNetwork.compute_single_lesions`, one lesion at a time."""
        units = units.to(base_lesion.device)
        yield from self.compute_logits(batch, base_lesion | functional.one_hot(units, batch.units).bool())

    @property
    def _module(self) -> nn.Module:
        return get_layer(self._network, self.layer, sections=True)

    def _silence(self, output: torch.Tensor, lesion: torch.Tensor) -> torch.Tensor:
        """`output` with 0 for lesioned units: a copy, filled, as a product with 0 would keep NaN."""
        mask = lesion.view(-1, *[1] * (-1 - self._from_end))
        return output.clone().masked_fill_(mask, 0)

    def _check_norms(self, images: torch.Tensor, units: int) -> None:
        """Refuse a layer whose output a norm reads directly, if lesioned units are other numbers than 0 behind it."""
        given: list[torch.Tensor] = []
        nothing = torch.ones(units, dtype=torch.bool, device=self._device)

        def silence(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            given.append(self._silence(output, nothing))
            return given[-1]

        def check(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
                if inputs and any(inputs[0] is tensor for tensor in given) and output.any():
                    raise StudyError(
                        f"units of layer {self.layer!r} that are lesioned would be nonzero behind the norm {name!r}. "
                        "Name that norm, or the rectifier behind it."
                    )

            return hook

        with ExitStack() as stack:
            stack.enter_context(_hook(self._module, silence))
            for name, module in self._network.named_modules():
                if isinstance(module, (*NORMS, *OTHER_NORMS)):
                    stack.enter_context(_hook(module, check(name)))
            self._network(images.clone())


@contextmanager
def _hook(module: nn.Module, function: Any) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()


Lesioned = LesionedNetwork | HookedNetwork
