"""What a network answers when units of a layer are silent: many lesions at once, as exactly as one at a time.

The network is cut behind the layer (`models.graph`): what lies below is computed once per batch of images, what lies
above once per lesion. A unit's part in the convolution or linear layer that first mixes units can be taken out of its
sum, so that a lesion of one unit costs that layer only one unit's share. If that layer is the head, as in networks that
average the map of their last convolution, a lesion costs a product of two numbers per image and class: the closed form.
Sums are taken in another order than by a forward pass with silent units, so that the last bits differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facespec.models.graph import NetworkCut, Values, cut_network
from facespec.study.errors import StudyError

FLAT = nn.Linear, nn.LayerNorm  # whose units are the last dimension, and the second only if there are no others
AT_ONCE = 1 << 22  # numbers in the largest tensor of a chunk of lesions

Logits = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class LesionBatch:
    """A batch of images below the cut: results of the steps there, and the units' responses (n, units, ...).

    `largest`: numbers per image in the largest result above the cut.
    """

    values: Values
    responses: torch.Tensor
    largest: int

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return int(self.responses.shape[1])

    def chunks(self, lesions: int) -> Iterator[slice]:
        """Parts of `lesions` that are answered at once."""
        step = max(1, AT_ONCE // (self.largest * len(self)))
        yield from (slice(start, min(start + step, lesions)) for start in range(0, lesions, step))


class LesionedNetwork:
    """`network` with units of `layer` (dotted name) silenced in many ways.

    Units are silenced behind the norm and the rectifier that follow `layer` directly. `network` is any torch module
    that torch.fx can trace and that returns a dict of logits, task -> (n, classes); it answers as in evaluation mode,
    is not changed, and must keep its weights meanwhile. Raises `StudyError` as `models.graph.cut` does.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        self.layer = layer
        self.cut = cut_network(network, layer)
        self._flat = isinstance(network.get_submodule(layer), FLAT)
        self._device = next(network.parameters()).device

    @torch.no_grad()
    def prepare_batch(self, images: torch.Tensor) -> LesionBatch:
        """All that lies below the layer, for `images` as the network takes them; once for all lesions of them."""
        values = self.cut.start(images.to(self._device))
        responses = values[self.cut.node]
        if not isinstance(responses, torch.Tensor) or responses.ndim not in ((2,) if self._flat else (2, 4)):
            raise StudyError(
                f"layer {self.layer!r} has responses of shape {tuple(getattr(responses, 'shape', ()))}: "
                "(n, units, h, w), or (n, units) of a linear layer, can be lesioned."
            )
        one = {node: value[:1].clone() for node, value in values.items()}
        self.cut.run(self._above, one, free=False)
        sizes = [value.numel() for value in one.values() if isinstance(value, torch.Tensor)]
        return LesionBatch(values, responses, max(sizes))

    @torch.no_grad()
    def compute_logits(self, batch: LesionBatch, lesions: torch.Tensor) -> Iterator[tuple[slice, Logits]]:
        """Logits under `lesions`, bool (k, units), True where silent: parts of them, task -> (part, n, classes)."""
        lesions = _checked(lesions, batch)
        apart = self._apart(batch)
        for part in batch.chunks(len(lesions)):
            values = _repeated(batch, self.cut, part)
            for node, (whole, silent) in apart.items():
                values[node] = _where_silent(lesions[part], whole, silent)
            self.cut.run((*self.cut.mixers, *self.cut.downstream), values)
            yield part, self._logits(values, len(batch))

    @torch.no_grad()
    def compute_single_lesions(
        self, batch: LesionBatch, silent: torch.Tensor, units: torch.Tensor
    ) -> Iterator[tuple[slice, Logits]]:
        """As `compute_logits`, when one of `units`, int64 (k,), falls silent besides those in `silent`, bool (units,)."""
        silent, units = _checked(silent[None], batch)[0], units.to(batch.responses.device)
        if not self.cut.mixers:
            yield from self.compute_logits(batch, silent | functional.one_hot(units, batch.units).bool())
            return
        apart = {node: (_where_silent(silent[None], *both), both[1]) for node, both in self._apart(batch).items()}
        sums = self.cut.run(self.cut.mixers, {node: whole for node, (whole, _) in apart.items()})
        shares = {
            node: _UnitContributions(self.cut.module(node), *apart[node.all_input_nodes[0]], units=batch.units)
            for node in self.cut.mixers
        }
        for part in batch.chunks(len(units)):
            values = _repeated(batch, self.cut, part)
            for node, share in shares.items():
                values[node] = share.taken_from(sums[node], units[part])
            self.cut.run(self.cut.downstream, values)
            yield part, self._logits(values, len(batch))

    @property
    def has_closed_form(self) -> bool:
        """Whether the head itself mixes the units: a lesion's logits then come in closed form."""
        return bool(self.cut.mixers) and not self.cut.downstream

    @property
    def _above(self) -> tuple[Any, ...]:
        return (*self.cut.unitwise, *self.cut.mixers, *self.cut.downstream)

    def _apart(self, batch: LesionBatch) -> dict[Any, tuple[torch.Tensor, torch.Tensor]]:
        """What each step of the frontier gives for the whole network, and, (1, ...), if all units are silent."""
        nothing = torch.zeros_like(batch.responses[:1])
        # a step may write into what it reads, and what it reads may be on the frontier
        whole = self.cut.run(self.cut.unitwise, {self.cut.node: batch.responses.clone()}, free=False)
        silent = self.cut.run(self.cut.unitwise, {self.cut.node: nothing}, free=False)
        return {node: (whole[node], silent[node]) for node in self.cut.frontier}

    def _logits(self, values: Values, n: int) -> Logits:
        return {task: logits.unflatten(0, (-1, n)) for task, logits in self.cut.compute_logits(values).items()}


def _repeated(batch: LesionBatch, at: NetworkCut, part: slice) -> Values:
    """What else the steps above need, once per lesion of `part`: lesions are the outer index of (k * n, ...)."""
    times = part.stop - part.start
    return {
        node: value.repeat(times, *[1] * (value.ndim - 1))
        for node, value in batch.values.items()
        if node is not at.node
    }


class _UnitContributions:
    """What single units add to the sums of a `layer`, a convolution or a linear layer, that reads `whole`.

    `whole` is (n, units, h, w), or (n, units * cells) flattened; `silent` the same (1, ...) of units that are silent.
    """

    def __init__(self, layer: nn.Module, whole: torch.Tensor, silent: torch.Tensor, *, units: int) -> None:
        self.layer: Any = layer
        self.added = whole - silent
        weight: Any = self.layer.weight
        if isinstance(layer, nn.Conv2d):
            self.weight = weight.flatten(2).permute(1, 2, 0)  # (units, kernel cells, outputs)
        else:
            self.added = self.added.unflatten(1, (units, -1)).permute(1, 0, 2)  # (units, n, cells)
            self.weight = weight.unflatten(1, (units, -1)).permute(1, 2, 0)

    def taken_from(self, sums: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """`sums` (n, outputs, ...) less what each of `units` (k,) adds to them: (k * n, outputs, ...)."""
        k, n = len(units), len(sums)
        if isinstance(self.layer, nn.Conv2d):
            window: tuple[Any, ...] = self.layer.kernel_size, self.layer.dilation, self.layer.padding, self.layer.stride
            patches = functional.unfold(self.added[:, units], *window)
            patches = patches.unflatten(1, (k, -1)).permute(1, 0, 3, 2).flatten(1, 2)  # (k, n * cells, kernel cells)
            base = sums.permute(0, 2, 3, 1).flatten(0, 2)
            left = torch.baddbmm(base.expand(k, -1, -1), patches, self.weight[units], alpha=-1)
            return left.view(k * n, *sums.shape[2:], -1).permute(0, 3, 1, 2)  # channels last in memory
        return torch.baddbmm(sums.expand(k, -1, -1), self.added[units], self.weight[units], alpha=-1).flatten(0, 1)


def _where_silent(lesions: torch.Tensor, whole: torch.Tensor, silent: torch.Tensor) -> torch.Tensor:
    """`whole` (n, units, ...) with `silent` (1, units, ...) where `lesions` (k, units) say so: (k * n, units, ...)."""
    units = lesions.shape[1]
    if whole.ndim == 2:
        mask, quiet, own = lesions[:, None, :, None], silent.unflatten(1, (units, -1)), whole.unflatten(1, (units, -1))
        return torch.where(mask, quiet, own).flatten(0, 1).flatten(1)
    mask, quiet, own = lesions[:, None, None, None], silent.permute(0, 2, 3, 1), whole.permute(0, 2, 3, 1)
    return torch.where(mask, quiet, own).flatten(0, 1).permute(0, 3, 1, 2)  # channels last in memory


def _checked(lesions: torch.Tensor, batch: LesionBatch) -> torch.Tensor:
    if lesions.dtype != torch.bool or lesions.shape[1:] != (batch.units,):
        raise StudyError(
            f"lesions are {lesions.dtype} of shape {tuple(lesions.shape)}; expected bool (lesions, {batch.units}), "
            "True where a unit is silent."
        )
    return lesions.to(batch.responses.device)
