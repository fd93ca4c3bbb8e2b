"""Learning rates are those of torch's own schedulers, and depend on the step alone."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from facespec.study.params import Finetune
from facespec.training.schedule import compute_rate, one_cycle, step_down


def make_block(optimizer: str) -> Finetune:
    settings = {"epochs": 7, "batch_size": 8, "learning_rate": 0.2, "weight_decay": 0.0, "step_epochs": 3}
    return Finetune.model_validate(settings | {"optimizer": optimizer, "label_smoothing": 0.0, "preset": "small"})


def make_optimizer(learning_rate: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 11, 64, 1000])
@pytest.mark.parametrize("peak", [0.005, 3.0])
def test_one_cycle_is_torchs(steps: int, peak: float) -> None:
    """Every step of every length, to float64's rounding."""
    optimizer = make_optimizer(1.0)
    scheduler = OneCycleLR(optimizer, max_lr=peak, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle(step, steps=steps, peak=peak) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_one_cycle_by_hand() -> None:
    """Ten steps: from a 25th of the peak up to it at step 2, half of it at 5.5, down to a 250,000th at 9."""
    rates = [one_cycle(step, steps=10, peak=1.0) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 25, (1 + 1 / 25) / 2, 1.0])
    assert (rates[5] + rates[6]) / 2 == pytest.approx(0.5, abs=1e-3)
    assert rates[9] == pytest.approx(1 / 250_000)
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("every", [1, 3, 30])
def test_steps_are_torchs(every: int) -> None:
    optimizer = make_optimizer(0.7)
    scheduler = StepLR(optimizer, step_size=every, gamma=0.1)
    for epoch in range(95):
        assert step_down(epoch, every=every, first=0.7) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_adamw_has_one_cycle_over_all_epochs() -> None:
    expected = [one_cycle(step, steps=7 * 5, peak=0.2) for step in range(35)]
    assert [compute_rate(make_block("adamw"), step, steps_per_epoch=5) for step in range(35)] == expected


def test_the_rate_of_sgd_is_constant_within_an_epoch() -> None:
    rates = [compute_rate(make_block("sgd"), step, steps_per_epoch=5) for step in range(35)]
    assert rates == pytest.approx([0.2] * 15 + [0.02] * 15 + [0.002] * 5)
