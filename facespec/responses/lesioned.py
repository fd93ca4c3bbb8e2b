"""What does a network compute when units of a layer are lesioned, for many lesions of the same images?

How the logits under lesions of single units are computed without a forward pass per lesion:

1. A lesion sets a unit's response, behind norm and rectifier, to 0 in every cell of its map.
2. The network is cut behind the layer (`models.graph`). What lies below the cut does not depend on lesions, and is
   computed once per batch of images.
3. Above the cut, pools, norms and rectifiers (unitwise steps) act on each unit separately.
4. Their result is computed twice: with the units' responses, and with all units at 0 (a norm makes a constant of 0).
5. The next step is a convolution or linear layer, a mixer. Its result is a sum over units.
6. This sum is computed once, without any lesion.
7. A unit's contribution to the sum is the mixer's weights of that unit, times the difference of the two results of
   step 4 at that unit.
8. A lesion of one unit therefore needs the sum minus one unit's contribution: for a layer of 128 units, 1/128 of the
   mixer's multiplications.
9. What lies downstream of the mixer is then run per lesion, many lesions as one large batch.
10. If the mixers are the heads, as in networks that average the map of their last convolution, nothing lies downstream:
    the logits under a lesion are the network's logits minus, per image and class, one product. This is the closed form.
11. A lesion of several units replaces their results at step 4 and runs the mixers in full.
12. Sums are added in another order than by a forward pass with lesioned units, so that the last bits differ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facespec.models.copies import shares_state
from facespec.models.graph import Values, cut_network
from facespec.models.tracing import UncutLayer
from facespec.responses.units import LAST
from facespec.study.errors import StudyError

CHUNK_NUMBERS = 1 << 22  # numbers in the largest tensor of a chunk of lesions

NAMED_UNITS = 8  # of a lesion, in a message

Logits = dict[str, torch.Tensor]  # task -> logits


@dataclass(frozen=True, eq=False)
class LesionBatch:
    """A batch of images below the cut: `values`, the results that nodes above read, among them the units' `responses`.

    Where a network is not cut (`responses.hooked`), `values` are the images.

    `responses` are (n, units, ...); `largest` is the number of numbers per image in the largest result above the cut.
    """

    values: dict[Any, Any]
    responses: torch.Tensor
    largest: int

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def units(self) -> int:
        """The number of units of the layer."""
        return int(self.responses.shape[1])

    def chunks(self, lesions: int) -> Iterator[slice]:
        """Slices of `lesions` that are run as one batch."""
        step = max(1, CHUNK_NUMBERS // (self.largest * len(self)))
        yield from (slice(start, min(start + step, lesions)) for start in range(0, lesions, step))


class LesionedNetwork:
    """A network with units of one layer lesioned in many ways.

    Units are lesioned behind the norm and the rectifier that follow the layer directly. The network is not changed; its
    weights must not change while this object is used.

    Parameters
    ----------
    network : Module
        Any module that torch.fx can trace and that returns a dict of logits, task -> (n, classes). It is run in
        evaluation mode.
    layer : str
        Dotted name of a module that is called once in a forward pass.

    Raises
    ------
    StudyError
        For an unknown layer, one that is not called exactly once, batch norms that need the whole batch, and networks
        that cannot be traced.

    See Also
    --------
    responses.lesioning.lesion_units : One lesion at a time, for any forward pass.

    Examples
    --------
    >>> from facespec.models.networks import build_network
    >>> from facespec.study.params import NetworkBlock
    >>> block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=1, branch_after=None)
    >>> network = build_network(block, {"identity": 5}, channels=1, generator=torch.Generator().manual_seed(1))
    >>> lesioned = LesionedNetwork(network, "trunk.conv2")
    >>> batch = lesioned.prepare_batch(torch.ones(3, 1, 17, 11))
    >>> lesions = torch.eye(batch.units, dtype=torch.bool)  # each unit alone
    >>> [(part, tuple(logits["identity"].shape)) for part, logits in lesioned.compute_logits(batch, lesions)]
    [(slice(0, 6, None), (6, 3, 5))]
    >>> lesioned.has_closed_form
    True
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        self.layer = layer
        self.cut = cut_network(network, layer)
        self._flat = isinstance(network.get_submodule(layer), LAST)  # the second dimension only if there are no others
        self._device = next(network.parameters()).device

    @property
    def can_be_copied(self) -> bool:
        """Whether `copy` gives a network that shares nothing that changes in a forward pass."""
        return not shares_state(self.cut.modules)

    def copy(self) -> LesionedNetwork:
        """The same with modules of its own, for another thread; weights are shared."""
        other = copy.copy(self)
        other.cut = self.cut.copy()
        return other

    @torch.no_grad()
    def prepare_batch(self, images: torch.Tensor) -> LesionBatch:
        """Compute what lies below the layer, once for all lesions; `images` as the network takes them."""
        values = self.cut.run_below(images.to(self._device, copy=True))  # a network may normalise them in place
        responses = values[self.cut.node]
        if not isinstance(responses, torch.Tensor) or responses.ndim not in ((2,) if self._flat else (2, 4)):
            raise UncutLayer(
                f"layer {self.layer!r} has responses of shape {tuple(getattr(responses, 'shape', ()))}: "
                "(n, units, h, w), or (n, units) of a linear layer, can be cut."
            )
        first_image = {node: value[:1].clone() for node, value in values.items()}
        above = (*self.cut.unitwise, *self.cut.mixers, *self.cut.downstream)
        self.cut.run(above, first_image, free=False)
        sizes = [value.numel() for value in first_image.values() if isinstance(value, torch.Tensor)]
        return LesionBatch(values, responses, max(sizes))

    @torch.no_grad()
    def compute_logits(self, batch: LesionBatch, lesions: torch.Tensor) -> Iterator[tuple[slice, Logits]]:
        """Logits under each of `lesions`, bool (k, units), True where a unit is lesioned.

        Yields slices of the lesions with their logits, task -> (lesions in the slice, n, classes).
        """
        lesions = check_lesions(lesions, batch)
        frontier = self._run_unitwise(batch)
        for part in batch.chunks(len(lesions)):
            values = self._repeat_skip_inputs(batch, part)
            for node, (intact, all_lesioned) in frontier.items():
                values[node] = _apply_lesions(lesions[part], intact, all_lesioned)
            self.cut.run((*self.cut.mixers, *self.cut.downstream), values)
            yield part, self._collect_logits(values, lesions[part], len(batch))

    @torch.no_grad()
    def compute_single_lesions(
        self, batch: LesionBatch, base_lesion: torch.Tensor, units: torch.Tensor
    ) -> Iterator[tuple[slice, Logits]]:
        """Logits when one of `units`, int64 (k,), is lesioned in addition to `base_lesion`, bool (units,).

        Yields as `compute_logits` does.
        """
        base_lesion, units = check_lesions(base_lesion[None], batch)[0], units.to(batch.responses.device)
        if not self.cut.mixers:
            yield from self.compute_logits(batch, base_lesion | functional.one_hot(units, batch.units).bool())
            return
        frontier = {
            node: (_apply_lesions(base_lesion[None], intact, all_lesioned), all_lesioned)
            for node, (intact, all_lesioned) in self._run_unitwise(batch).items()
        }
        contributions = {
            mixer: _UnitContributions(self.cut.module(mixer), *frontier[mixer.all_input_nodes[0]], units=batch.units)
            for mixer in self.cut.mixers
        }
        for part in batch.chunks(len(units)):
            values = self._repeat_skip_inputs(batch, part)
            for mixer, contribution in contributions.items():
                values[mixer] = contribution.subtract(units[part])
            self.cut.run(self.cut.downstream, values)
            lesions = base_lesion | functional.one_hot(units[part], batch.units).bool()
            yield part, self._collect_logits(values, lesions, len(batch))

    @property
    def has_closed_form(self) -> bool:
        """Whether the mixers are the heads: logits under lesions of single units are then differences."""
        return bool(self.cut.mixers) and not self.cut.downstream

    def _run_unitwise(self, batch: LesionBatch) -> dict[Any, tuple[torch.Tensor, torch.Tensor]]:
        """Frontier node -> its result (n, units, ...) without lesions, and (1, units, ...) with all units lesioned."""
        # copies, as a step may work in place, and its input may be on the frontier
        intact = self.cut.run(self.cut.unitwise, {self.cut.node: batch.responses.clone()}, free=False)
        zeros = torch.zeros_like(batch.responses[:1])
        all_lesioned: Values = {self.cut.node: zeros}
        for step in self.cut.unitwise:
            self.cut.run((step,), all_lesioned, free=False)
            if step in self.cut.sites:
                all_lesioned[step] = torch.zeros_like(all_lesioned[step])
        return {node: (intact[node], all_lesioned[node]) for node in self.cut.frontier}

    def _repeat_skip_inputs(self, batch: LesionBatch, part: slice) -> Values:
        """The skip inputs, once per lesion of `part`: lesions are the outer index of (k * n, ...)."""
        k = part.stop - part.start
        skip_inputs = {node: batch.values[node] for node in self.cut.skip_inputs}
        return {node: value.repeat(k, *[1] * (value.ndim - 1)) for node, value in skip_inputs.items()}

    def _collect_logits(self, values: Values, lesions: torch.Tensor, n: int) -> Logits:
        logits = {task: rows.unflatten(0, (-1, n)) for task, rows in self.cut.compute_logits(values).items()}
        check_finite(self.layer, lesions, logits)
        return logits


def check_finite(layer: str, lesions: torch.Tensor, logits: Logits) -> None:
    """Raise `StudyError` for `logits`, task -> (k, n, classes), that are NaN or infinite under one of `lesions`."""
    for task, values in logits.items():
        finite = values.isfinite().flatten(1).all(dim=1)
        if finite.all():
            continue
        lesion = lesions[int((~finite).nonzero()[0])]
        numbers = lesion.nonzero().flatten().tolist()
        named = ", ".join(map(str, numbers[:NAMED_UNITS])) + (", ..." if len(numbers) > NAMED_UNITS else "")
        silent = f"with {len(numbers)} of {len(lesion)} units of layer {layer!r} lesioned (units {named})"
        raise StudyError(
            f"{silent if numbers else 'without any lesion'}, logits of task {task!r} are NaN or infinite. Where a step "
            "behind the layer divides by what units give, or takes its logarithm, add a small number there; or name "
            "another layer."
        )


class _UnitContributions:
    """What each unit adds to the sums of a mixer, a convolution or a linear layer.

    The mixer reads `intact`, (n, units, h, w) or (n, units * cells) flattened, without lesions, and `all_lesioned`,
    (1, ...), with all units lesioned. In half precision, sums are computed in float32 and rounded once, at the end, as
    the mixer itself does.
    """

    def __init__(self, mixer: nn.Module, intact: torch.Tensor, all_lesioned: torch.Tensor, *, units: int) -> None:
        self.dtype = intact.dtype
        if intact.dtype.itemsize < 4:
            mixer, intact, all_lesioned = copy.deepcopy(mixer).float(), intact.float(), all_lesioned.float()
        self.mixer: Any = mixer
        self.sums = self.mixer(intact)
        self.difference = intact - all_lesioned
        weight: Any = self.mixer.weight
        if isinstance(mixer, nn.Conv2d):
            self.weight = weight.flatten(2).permute(1, 2, 0)  # (units, kernel cells, outputs)
        else:
            self.difference = self.difference.unflatten(1, (units, -1)).permute(1, 0, 2)  # (units, n, cells)
            self.weight = weight.unflatten(1, (units, -1)).permute(1, 2, 0)

    def subtract(self, units: torch.Tensor) -> torch.Tensor:
        """The sums (n, outputs, ...) minus the contribution of each of `units` (k,): (k * n, outputs, ...)."""
        return self._subtract(units).to(self.dtype)

    def _subtract(self, units: torch.Tensor) -> torch.Tensor:
        k, n = len(units), len(self.sums)
        if isinstance(self.mixer, nn.Conv2d):
            m: Any = self.mixer
            patches = functional.unfold(self.difference[:, units], m.kernel_size, m.dilation, m.padding, m.stride)
            patches = patches.unflatten(1, (k, -1)).permute(1, 0, 3, 2).flatten(1, 2)  # (k, n * cells, kernel cells)
            base = self.sums.permute(0, 2, 3, 1).flatten(0, 2)
            rest = torch.baddbmm(base.expand(k, -1, -1), patches, self.weight[units], alpha=-1)
            return rest.view(k * n, *self.sums.shape[2:], -1).permute(0, 3, 1, 2)  # channels last in memory
        base = self.sums.expand(k, -1, -1)
        return torch.baddbmm(base, self.difference[units], self.weight[units], alpha=-1).flatten(0, 1)


def _apply_lesions(lesions: torch.Tensor, intact: torch.Tensor, all_lesioned: torch.Tensor) -> torch.Tensor:
    """`all_lesioned` (1, units, ...) if a unit is lesioned in `lesions` (k, units), else `intact`: (k * n, ...)."""
    if intact.ndim == 2:
        cells = lesions.shape[1], -1
        mixed = torch.where(lesions[:, None, :, None], all_lesioned.unflatten(1, cells), intact.unflatten(1, cells))
        return mixed.flatten(0, 1).flatten(1)
    mask = lesions[:, None, None, None]
    mixed = torch.where(mask, all_lesioned.permute(0, 2, 3, 1), intact.permute(0, 2, 3, 1))
    return mixed.flatten(0, 1).permute(0, 3, 1, 2)  # channels last in memory


def check_lesions(lesions: torch.Tensor, batch: LesionBatch) -> torch.Tensor:
    """`lesions` on the device of `batch`; raises `StudyError` unless they are bool (k, units)."""
    if lesions.dtype != torch.bool or lesions.shape[1:] != (batch.units,):
        raise StudyError(
            f"lesions are {lesions.dtype} of shape {tuple(lesions.shape)}; expected bool (lesions, {batch.units}), "
            "True where a unit is lesioned."
        )
    return lesions.to(batch.responses.device)
