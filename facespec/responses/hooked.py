"""Lesions by whole forward passes, with a hook on the layer: for networks and layers that cannot be cut.

Slower than `responses.lesioned`, and exact for any `forward`: branching on values, layers that are called several times
(their units are lesioned in each call), and token layers of transformers, (n, tokens, units).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facespec.models.copies import copy_or_share, shares_state
from facespec.models.tracing import NORMS, OTHER_NORMS, UncutLayer
from facespec.responses.lesioned import LesionBatch, LesionedNetwork, Logits, check_finite, check_lesions
from facespec.responses.recording import hook_outputs, record_responses
from facespec.responses.units import find_unit_axis
from facespec.study.errors import StudyError


def lesion_network(network: nn.Module, layer: str, images: torch.Tensor) -> Lesioned:
    """`network` with units of `layer` lesioned: cut by torch.fx where that is possible, else by whole forward passes.

    `images` are a few that the network takes. Raises `StudyError` where units cannot be silenced either way.
    """
    images = images.to(next(network.parameters()).device)
    try:
        lesioned = LesionedNetwork(network, layer)
        batch = lesioned.prepare_batch(images)
        if (axis := find_unit_axis(network, layer, images)) != 1:
            raise UncutLayer(f"the units of layer {layer!r} are dimension {axis} of {tuple(batch.responses.shape)}.")
    except UncutLayer as reason:
        return HookedNetwork(network, layer, images, reason=str(reason))
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
    images : tensor
        A few that the network takes.
    reason : str
        Why the network is not cut.

    Raises
    ------
    StudyError
        For an unknown layer, one of which it is not known which dimension the units are, and for a norm that reads the
        layer's output and makes other numbers of lesioned units than 0.

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
    ...     lesioned = HookedNetwork(Branching(), "units", torch.ones(1, 2))
    >>> batch = lesioned.prepare_batch(torch.ones(4, 2))
    >>> ((part, logits),) = lesioned.compute_logits(batch, torch.tensor([[True, False, True]]))
    >>> logits["size"][0, :, [0, 2]].any().item(), tuple(logits["size"].shape)
    (False, (1, 4, 3))
    """

    has_closed_form = False

    def __init__(self, network: nn.Module, layer: str, images: torch.Tensor, *, reason: str = "") -> None:
        self.layer, self.reason = layer, reason
        self._original = network
        self._network = copy_or_share(network)
        self._device = next(network.parameters()).device
        images = images.to(self._device)
        self._axis = find_unit_axis(self._network, layer, images)
        self._check_norms(images)

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
        with record_responses(self._network, [self.layer]) as responses:
            self._network(images.clone())  # a network may normalise them in place
        units_second = responses[self.layer].movedim(self._axis, 1)
        return LesionBatch({"images": images}, units_second, units_second.numel() // len(images))

    @torch.no_grad()
    def compute_logits(self, batch: LesionBatch, lesions: torch.Tensor) -> Iterator[tuple[slice, Logits]]:
        """As `LesionedNetwork.compute_logits`, one lesion at a time."""
        for number, lesion in enumerate(check_lesions(lesions, batch)):
            with hook_outputs(self._network, [self.layer], partial(self._silence, lesion)):
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

    def _silence(self, lesion: torch.Tensor, _: str, output: torch.Tensor) -> torch.Tensor:
        """`output` with 0 for lesioned units: a copy, filled, as a product with 0 would keep NaN."""
        mask = lesion.view(-1, *[1] * (output.ndim - 1 - self._axis))
        return output.clone().masked_fill_(mask, 0)

    @torch.no_grad()
    def _check_norms(self, images: torch.Tensor) -> None:
        """Refuse a layer whose output a norm reads directly, if lesioned units are other numbers than 0 behind it."""
        given: list[torch.Tensor] = []

        def silence_all(_: str, output: torch.Tensor) -> torch.Tensor:
            given.append(torch.zeros_like(output))
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
            stack.enter_context(hook_outputs(self._network, [self.layer], silence_all))
            for name, module in self._network.named_modules():
                if isinstance(module, (*NORMS, *OTHER_NORMS)):
                    stack.enter_context(module.register_forward_hook(check(name)))
            self._network(images.clone())


Lesioned = LesionedNetwork | HookedNetwork
