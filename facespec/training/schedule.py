"""The learning rate of every step, as pure functions of the step."""

from __future__ import annotations

import math

from facespec.study.params import Finetune

RISING = 0.3  # [O] share of the steps until the peak; this and the next two are torch's OneCycleLR defaults
FIRST = 1 / 25  # [O] first rate, as a share of the peak
LAST = FIRST / 1e4  # [O] last rate, as a share of the peak
STEP_FACTOR = 0.1  # [L] StepLR


def compute_rate(block: Finetune, step: int, *, steps_per_epoch: int) -> float:
    """The learning rate of `step` (0, 1, ... over all epochs) under `block`: one cycle for adamw, steps for sgd."""
    if block.optimizer == "adamw":
        return one_cycle(step, steps=block.epochs * steps_per_epoch, peak=block.learning_rate)
    return stepped(step // steps_per_epoch, every=block.step_epochs, first=block.learning_rate)


def one_cycle(step: int, *, steps: int, peak: float) -> float:
    """Up to `peak` and down again along half cosines, over `steps` in all (Smith & Topin 2017, as torch has it)."""
    top = RISING * steps - 1
    if step <= top:
        return peak * _cosine(FIRST, 1.0, step / top if top > 0 else 1.0)
    return peak * _cosine(1.0, LAST, (step - top) / (steps - 1 - top))


def stepped(epoch: int, *, every: int, first: float) -> float:
    """`first`, and a tenth of it after each `every` epochs."""
    return first * STEP_FACTOR ** (epoch // every)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
