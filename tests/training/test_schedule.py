"""Learning rates are those of torch's own schedulers, and nothing but a function of the step."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from facespec.study.params import Finetune
from facespec.training.schedule import compute_rate, one_cycle, stepped


def block(optimizer: str, *, epochs: int = 7, learning_rate: float = 0.2, step_epochs: int = 3) -> Finetune:
    return Finetune.model_validate(
        {
            "epochs": epochs,
            "batch_size": 8,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": 0.0,
            "step_epochs": step_epochs,
            "label_smoothing": 0.0,
            "preset": "small",
        }
    )


def optimizer(learning_rate: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 11, 64, 1000])
@pytest.mark.parametrize("peak", [0.005, 3.0])
def test_one_cycle_is_torchs(steps: int, peak: float) -> None:
    """Every step of every length, to float64's rounding."""
    own = optimizer(1.0)
    theirs = OneCycleLR(own, max_lr=peak, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle(step, steps=steps, peak=peak) == pytest.approx(own.param_groups[0]["lr"], rel=1e-12)
        own.step()
        if step < steps - 1:
            theirs.step()


def test_one_cycle_by_hand() -> None:
    """Ten steps: from a 25th of the peak up to it at step 2, half way at 5.5, down to a 250,000th at 9."""
    rates = [one_cycle(step, steps=10, peak=1.0) for step in range(10)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[1] == pytest.approx((1 + 1 / 25) / 2)
    assert rates[2] == 1.0
    assert (rates[5] + rates[6]) / 2 == pytest.approx(0.5, abs=1e-3)
    assert rates[9] == pytest.approx(1 / 250_000)
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("every", [1, 3, 30])
def test_steps_are_torchs(every: int) -> None:
    own = optimizer(0.7)
    theirs = StepLR(own, step_size=every, gamma=0.1)
    for epoch in range(95):
        assert stepped(epoch, every=every, first=0.7) == pytest.approx(own.param_groups[0]["lr"], rel=1e-9)
        own.step()
        theirs.step()


def test_steps_by_hand() -> None:
    rates = [stepped(epoch, every=30, first=1e-3) for epoch in (0, 29, 30, 59, 60)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_adamw_cycles_over_all_epochs() -> None:
    wanted = [one_cycle(step, steps=7 * 5, peak=0.2) for step in range(35)]
    assert [compute_rate(block("adamw"), step, steps_per_epoch=5) for step in range(35)] == wanted


def test_sgd_keeps_its_rate_within_an_epoch() -> None:
    rates = [compute_rate(block("sgd"), step, steps_per_epoch=5) for step in range(35)]
    assert rates == pytest.approx([0.2] * 15 + [0.02] * 15 + [0.002] * 5)
