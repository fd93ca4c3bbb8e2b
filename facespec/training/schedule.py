"""Which learning rate does a step have? Schedules as pure functions of the step."""

from __future__ import annotations

import math

from facespec.study.params import Finetune

RISE = 0.3  # [O] share of the steps until the peak; this and the next two are torch's OneCycleLR defaults
FIRST = 1 / 25  # [O] first rate, as a share of the peak
LAST = FIRST / 1e4  # [O] last rate, as a share of the peak
STEP_FACTOR = 0.1  # [L] StepLR


def compute_rate(block: Finetune, step: int, *, steps_per_epoch: int) -> float:
    """The learning rate of `step` (0, 1, ... over all epochs) under `block`: one cycle for adamw, steps for sgd."""
    if block.optimizer == "adamw":
        return one_cycle(step, steps=block.epochs * steps_per_epoch, peak=block.learning_rate)
    return step_down(step // steps_per_epoch, every=block.step_epochs, first=block.learning_rate)


def one_cycle(step: int, *, steps: int, peak: float) -> float:
    """Up to `peak` and down again along half cosines, over `steps` in all (Smith & Topin 2017, as in torch)."""
    top = RISE * steps - 1
    if step <= top:
        return peak * _interpolate(FIRST, 1.0, step / top if top > 0 else 1.0)
    return peak * _interpolate(1.0, LAST, (step - top) / (steps - 1 - top))


def step_down(epoch: int, *, every: int, first: float) -> float:
    """`first`, multiplied by a tenth after each `every` epochs."""
    return first * STEP_FACTOR ** (epoch // every)


def _interpolate(start: float, end: float, share: float) -> float:
    """From `start` to `end` along a half cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
