"""Fitting: learns, is exact against a plain loop, repeats itself, and goes on where it was cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.data.batches import Preset, iterate_batches
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models import trunks
from facespec.models.checkpoints import digest_tensors
from facespec.models.device import deterministic_torch
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock, Train
from facespec.study.seeds import generator
from facespec.training import fit as room
from facespec.training.fit import Plan, Status, TaskData, count_epoch_steps, fit

PRESET = Preset("small", 13, 1, resize=None, shift=1, flip=True, grey_probability=0.0)
BLOCK = Train(
    schedule="summed",
    epochs=3,
    batch_size=8,
    optimizer="adamw",
    learning_rate=0.02,
    weight_decay=0.01,
    step_epochs=2,
    label_smoothing=0.1,
    preset="small",
)
SMALL = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after=None)
CPU = torch.device("cpu")
STEPS = 11  # of an epoch: 83 images in batches of 8, the last of 3


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """83 noisy images 13x13; class k of 3 is bright in its own third of the rows."""
    draw = generator(1)
    codes = np.arange(83) % 3
    images = draw.integers(0, 90, (83, 13, 13), dtype=np.uint8)
    for image, code in zip(images, codes, strict=True):
        image[code * 4 : code * 4 + 4] += 120
    rest = dict.fromkeys(("expression", "view", "session"), "")
    names = [f"s{i}" for i in range(83)]
    labels = pd.DataFrame({"stimulus": names, "split": "train", "identity": [f"p{c}" for c in codes], **rest})
    about = FaceSetDescription("identity", 50, None, {"source": "stripes", "content": "c"})
    return write_faceset(tmp_path_factory.mktemp("faces") / "set", [FaceChunk(images, labels)], about)


def task(faces: FaceSet, n: int = 83) -> TaskData:
    return TaskData(faces, np.arange(n), np.arange(n) % 3)


def fresh(*tasks: str, block: NetworkBlock = SMALL, seed: int = 4) -> FaceNetwork:
    return build_network(block, dict.fromkeys(tasks, 3), channels=1, generator=torch.Generator().manual_seed(seed))


def plan(code: str = "", **changes: Any) -> Plan:
    return Plan(BLOCK.model_copy(update=changes), PRESET, CPU, STEPS, code)


def fitted(model: FaceNetwork, data: dict[str, TaskData], how: Plan, file: Path, **more: Any) -> tuple[str, list[dict]]:
    with deterministic_torch():
        history = fit(model, data, how, generator=generator(9), unfinished=file, **more)
    return digest_tensors(model.state_dict()), history


def test_it_learns_what_the_images_show(faces: FaceSet, tmp_path: Path) -> None:
    _, history = fitted(fresh("identity"), {"identity": task(faces)}, plan(epochs=8), tmp_path / "u")
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["accuracy"] > 0.95 > 0.6 > history[0]["accuracy"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_shuffled_classes_are_not_learned(faces: FaceSet, tmp_path: Path) -> None:
    wrong = TaskData(faces, np.arange(83), generator(2).permutation(np.arange(83) % 3))
    _, history = fitted(fresh("identity"), {"identity": wrong}, plan(epochs=8), tmp_path / "u")
    assert history[-1]["accuracy"] < 0.7


def plain(model: FaceNetwork, data: dict[str, TaskData], turns: list[tuple[str, ...]], block: Train) -> None:
    """SGD with momentum written out, for data sets of equal size: the order of images is all it shares with `fit`."""
    stream = generator(9)
    speed: dict[str, torch.Tensor] = {}
    model.train()
    for epoch in range(block.epochs):
        own = dict(zip(("expression", "identity"), stream.spawn(3)[:2], strict=True))
        taken = {
            t: iterate_batches(d.faces, d.rows, batch_size=block.batch_size, preset=PRESET, generator=own[t])
            for t, d in data.items()
        }
        for _ in range(-(-len(next(iter(data.values())).rows) // block.batch_size)):
            for together in turns:
                now = {t: next(taken[t]) for t in together}
                shared = model.trunk(torch.cat([batch.images for batch in now.values()]))
                loss, start = torch.zeros(()), 0
                for t, batch in now.items():
                    logits = model.heads[t](shared[start : start + len(batch.images)])
                    start += len(batch.images)
                    codes = torch.tensor([data[t].codes[list(data[t].rows).index(p)] for p in batch.positions])
                    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
                    target = 0.9 * torch.eye(3)[codes] + 0.1 / 3
                    loss = loss - (target * log_p).sum(dim=1).mean()
                names, weights = zip(*model.named_parameters(), strict=True)
                slopes = torch.autograd.grad(loss, weights, allow_unused=True)
                rate = block.learning_rate * (0.1 if epoch >= block.step_epochs else 1.0)
                with torch.no_grad():
                    for name, weight, slope in zip(names, weights, slopes, strict=True):
                        if slope is None:  # the head of the other task, in turns
                            continue
                        push = slope + block.weight_decay * weight
                        speed[name] = push if name not in speed else 0.9 * speed[name] + push
                        weight -= rate * speed[name]


@pytest.mark.parametrize("schedule", ["summed", "alternate"])
def test_steps_are_those_of_a_plain_loop(faces: FaceSet, tmp_path: Path, schedule: str) -> None:
    data = {"expression": task(faces, 40), "identity": task(faces, 40)}
    how = replace(plan(schedule=schedule, optimizer="sgd", learning_rate=0.05), epoch_steps=5)
    model, slow = fresh("expression", "identity"), fresh("expression", "identity")
    fitted(model, data, how, tmp_path / "u")
    turns = [("expression", "identity")] if schedule == "summed" else [("expression",), ("identity",)]
    plain(slow, data, turns, how.block)  # type: ignore[arg-type]
    for (name, found), expected in zip(model.state_dict().items(), slow.state_dict().values(), strict=True):
        # float32 sums in another order, over 15 or 30 steps
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_equal_beginnings_end_in_equal_bits(faces: FaceSet, tmp_path: Path) -> None:
    data = {"identity": task(faces)}
    first, second = (fitted(fresh("identity"), data, plan(), tmp_path / name) for name in "ab")
    assert first == second
    assert fitted(fresh("identity", seed=5), data, plan(), tmp_path / "c")[0] != first[0]
    assert fitted(fresh("identity"), data, plan(label_smoothing=0.0), tmp_path / "d")[0] != first[0]


class Killed(BaseException):
    """As if the process had ended."""


def killing(step: int) -> Callable[[Status], None]:
    def report(status: Status) -> None:
        if status.step == step:
            raise Killed

    return report


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 1, 2 * STEPS + 5, 3 * STEPS])
@pytest.mark.parametrize("tasks", [("identity",), ("expression", "identity")])
def test_a_fit_cut_off_anywhere_ends_in_the_same_bits(
    faces: FaceSet, tmp_path: Path, step: int, tasks: tuple[str, ...]
) -> None:
    data = {name: task(faces) for name in tasks}
    whole = fitted(fresh(*tasks), data, plan(), tmp_path / "whole")
    with pytest.raises(Killed):
        fitted(fresh(*tasks), data, plan(), tmp_path / "cut", report=killing(step))
    seen: list[int] = []
    again = fitted(fresh(*tasks), data, plan(), tmp_path / "cut", report=lambda status: seen.append(status.step))
    assert again == whole
    assert seen[0] == (step - 1) // STEPS * STEPS + 1  # from the last whole epoch, not from the beginning


def test_a_finished_fit_is_not_repeated(faces: FaceSet, tmp_path: Path) -> None:
    data = {"identity": task(faces)}
    whole = fitted(fresh("identity"), data, plan(), tmp_path / "u")
    assert fitted(fresh("identity"), data, plan(), tmp_path / "u", report=killing(1)) == whole


@pytest.mark.parametrize(
    "other", [plan(learning_rate=0.01), plan(code="newer"), plan(epochs=4), replace(plan(), epoch_steps=10)]
)
def test_what_began_otherwise_is_not_continued(faces: FaceSet, tmp_path: Path, other: Plan) -> None:
    data = {"identity": task(faces)}
    whole = fitted(fresh("identity"), data, plan(), tmp_path / "whole")
    with pytest.raises(Killed):
        fitted(fresh("identity"), data, other, tmp_path / "cut", report=killing(2 * STEPS))
    assert fitted(fresh("identity"), data, plan(), tmp_path / "cut") == whole


@pytest.mark.parametrize("damage", [b"", b"no such thing", None])
def test_a_damaged_state_costs_time_and_nothing_else(faces: FaceSet, tmp_path: Path, damage: bytes | None) -> None:
    data = {"identity": task(faces)}
    file = tmp_path / "u"
    whole = fitted(fresh("identity"), data, plan(), file)
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    assert fitted(fresh("identity"), data, plan(), file) == whole


@pytest.mark.parametrize("schedule", ["summed", "alternate"])
def test_networks_see_exactly_the_same_batches_of_a_task(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """Image by image and in the same order, augmented alike, the smaller task as long as the larger one."""
    seen: dict[int, list[tuple[int, ...]]] = {}
    pixels: dict[int, list[float]] = {}

    def spy(faces: FaceSet, rows: np.ndarray, **how: Any) -> Any:
        for batch in iterate_batches(faces, rows, **how):
            seen.setdefault(len(rows), []).append(tuple(batch.positions))
            pixels.setdefault(len(rows), []).append(float(batch.images.double().pow(2).sum()))
            yield batch

    monkeypatch.setattr(room, "iterate_batches", spy)
    data = {"expression": task(faces, 83), "identity": task(faces, 40)}
    how = plan(epochs=2, schedule=schedule)
    fitted(fresh("expression", "identity"), data, how, tmp_path / "joint")
    (joint, joint_pixels), (seen, pixels) = (seen, pixels), ({}, {})
    for name in data:
        fitted(fresh(name), {name: data[name]}, how, tmp_path / name)
    assert joint == seen and joint_pixels == pixels
    # the larger task once per epoch; the smaller one, of 5 batches, twice and a batch more
    assert [len(seen[n]) for n in (83, 40)] == [2 * STEPS, 2 * STEPS]
    assert sorted(itertools.chain(*seen[83][:STEPS])) == list(range(83))
    assert sorted(itertools.chain(*seen[40][:5])) == sorted(itertools.chain(*seen[40][5:10])) == list(range(40))


def test_an_epoch_is_a_pass_through_the_largest_task() -> None:
    assert count_epoch_steps([83, 40], 8) == count_epoch_steps([40, 83], 8) == 11
    assert count_epoch_steps([80], 8) == 10
    assert count_epoch_steps([81, 5], 8) == 10  # a last batch of one image is not taken


def test_progress_counts_steps_and_images(faces: FaceSet, tmp_path: Path) -> None:
    seen: list[Status] = []
    data = {"expression": task(faces), "identity": task(faces)}
    how = plan(epochs=2, schedule="alternate")
    history = fitted(
        fresh("expression", "identity"), data, how, tmp_path / "u", report=lambda s: seen.append(Status(**vars(s)))
    )[1]
    assert [s.step for s in seen] == list(range(1, 2 * 2 * STEPS + 1)) and {s.steps for s in seen} == {4 * STEPS}
    assert seen[-1].images == 2 * 2 * 83
    assert seen[-1].accuracy == pytest.approx(np.mean([row["accuracy"] for row in history[-2:]]))
    assert [(row["epoch"], row["task"]) for row in history] == [
        (e, t) for e in (1, 2) for t in ("expression", "identity")
    ]


def test_the_model_comes_back_as_it_was_lent(faces: FaceSet, tmp_path: Path) -> None:
    model = fresh("identity").eval()
    fitted(model, {"identity": task(faces)}, plan(epochs=1), tmp_path / "u")
    assert not any(module.training for module in model.modules())


def test_dropout_repeats_itself_and_lets_go_of_its_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vgg16 has dropout; here with a small classifier, on 32 px images of noise."""
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 16)
    images = generator(3).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    labels = pd.DataFrame(
        {
            "stimulus": list("abcd"),
            "split": "train",
            "identity": list("xyxy"),
            "expression": "",
            "view": "",
            "session": "",
        }
    )
    about = FaceSetDescription("identity", 4, None, {"source": "noise"})
    few = write_faceset(tmp_path / "set", [FaceChunk(images, labels)], about)
    own = TaskData(few, np.arange(4), np.array([0, 1, 0, 1]))
    how = Plan(
        BLOCK.model_copy(update={"epochs": 1, "batch_size": 2, "optimizer": "sgd"}),
        Preset("small", 32, 1, resize=None, shift=0, flip=False, grey_probability=0.0),
        CPU,
        2,
    )
    vgg = NetworkBlock(trunk="vgg16", channels=[1], convolutions=1, branch_after=None)
    ends = []
    for name in "ab":
        model = fresh("identity", block=vgg)
        ends.append(fitted(model, {"identity": own}, how, tmp_path / name))
        with pytest.raises(StudyError, match="draws from a generator of its own"):
            model.train()(torch.zeros(2, 1, 32, 32))
    assert ends[0] == ends[1]


def test_a_loss_that_is_not_finite_stops_the_fit(faces: FaceSet, tmp_path: Path) -> None:
    model = fresh("identity")
    torch.nn.init.constant_(model.heads["identity"].bias, float("inf"))
    with pytest.raises(StudyError) as caught:
        fitted(model, {"identity": task(faces)}, plan(), tmp_path / "u")
    assert str(caught.value) == (
        "training diverged in epoch 1: after 1 steps the loss is nan. Lower learning_rate (now 0.02) in params.yaml."
    )
    assert not (tmp_path / "u").exists()


def test_refusals(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        fitted(fresh("identity"), {"expression": task(faces)}, plan(), tmp_path / "u")
    assert str(caught.value) == "this network has heads for ['identity'], but faces were given for ['expression']."
    with pytest.raises(StudyError) as caught:
        fitted(fresh("identity"), {"identity": task(faces, 1)}, plan(), tmp_path / "u")
    assert str(caught.value) == (
        "task 'identity': 1 images with 1 classes; a fit needs at least 2 images, each with its class."
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_equal_beginnings_end_in_equal_bits(faces: FaceSet, tmp_path: Path) -> None:
    how = Plan(BLOCK, PRESET, torch.device("cuda"), STEPS)
    ends = [fitted(fresh("identity"), {"identity": task(faces)}, how, tmp_path / name) for name in "ab"]
    assert ends[0] == ends[1]
