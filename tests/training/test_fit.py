"""Fitting: it learns, follows a plain loop, repeats itself, and continues where it was interrupted."""

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

from facespec.data.batches import iterate_batches
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models import trunks
from facespec.models.checkpoints import digest_tensors
from facespec.models.device import deterministic_torch
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError
from facespec.study.params import Train, Weights
from facespec.study.presets import Preset
from facespec.study.seeds import generator
from facespec.training import fit as module
from facespec.training.fit import Plan, Status, TaskData, count_epoch_steps, fit
from toys import make_network, write_noise_faces

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
TASKS = ("expression", "identity")
STEPS = 11  # of an epoch: 83 images in batches of 8, the last of 3


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """83 noisy images 13x13; class k of 3 is bright in its own third of the rows."""
    draw = generator(1)
    codes = np.arange(83) % 3
    images = draw.integers(0, 90, (83, 13, 13), dtype=np.uint8)
    for image, code in zip(images, codes, strict=True):
        image[code * 4 : code * 4 + 4] += 120
    labels = pd.DataFrame({"stimulus": [f"s{i}" for i in range(83)], "identity": [f"p{code}" for code in codes]})
    labels = labels.assign(split="train", expression="", view="", session="")
    description = FaceSetDescription("identity", 50, None, {"source": "stripes", "content": "c"})
    return write_faceset(tmp_path_factory.mktemp("faces") / "set", [FaceChunk(images, labels)], description)


def make_data(faces: FaceSet, *tasks: str, n: int = 83) -> dict[str, TaskData]:
    return {task: TaskData(faces, np.arange(n), np.arange(n) % 3) for task in tasks}


def build(*tasks: str, seed: int = 4, **options: Any) -> FaceNetwork:
    return make_network((3, 5), classes=dict.fromkeys(tasks, 3), seed=seed, **options).train()


def make_plan(code: str = "", *, device: str = "cpu", **changes: Any) -> Plan:
    return Plan(BLOCK.model_copy(update=changes), PRESET, torch.device(device), STEPS, code)


def run(
    network: FaceNetwork, data: dict[str, TaskData], plan: Plan, file: Path, **options: Any
) -> tuple[str, list[dict[str, Any]]]:
    """Digest of the weights, and the history."""
    with deterministic_torch():
        history = fit(network, data, plan, generator=generator(9), progress_file=file, **options)
    return digest_tensors(network.state_dict()), history


def test_it_learns_what_the_images_show(faces: FaceSet, tmp_path: Path) -> None:
    """And nothing from classes that are shuffled."""
    _, history = run(build("identity"), make_data(faces, "identity"), make_plan(epochs=8), tmp_path / "a")
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["accuracy"] > 0.95 > 0.6 > history[0]["accuracy"]
    assert history[-1]["loss"] < history[0]["loss"]
    shuffled = TaskData(faces, np.arange(83), generator(2).permutation(np.arange(83) % 3))
    _, history = run(build("identity"), {"identity": shuffled}, make_plan(epochs=8), tmp_path / "b")
    assert history[-1]["accuracy"] < 0.7


def run_plain_loop(
    network: FaceNetwork, data: dict[str, TaskData], groups: list[tuple[str, ...]], block: Train
) -> None:
    """SGD with momentum written out, for data sets of equal size; shares with `fit` the order of the images only."""
    stream = generator(9)
    velocity: dict[str, torch.Tensor] = {}
    for epoch in range(block.epochs):
        streams = dict(zip(TASKS, stream.spawn(3)[:2], strict=True))
        iterators = {
            task: iterate_batches(
                faces.faces, faces.rows, batch_size=block.batch_size, preset=PRESET, generator=streams[task]
            )
            for task, faces in data.items()
        }
        for _, group in itertools.product(range(-(-len(data["identity"].rows) // block.batch_size)), groups):
            batches = {task: next(iterators[task]) for task in group}
            shared = network.trunk(torch.cat([batch.images for batch in batches.values()]))
            loss, start = torch.zeros(()), 0
            for task, batch in batches.items():
                logits = network.heads[task](shared[start : start + len(batch.images)])
                start += len(batch.images)
                codes = torch.tensor([data[task].codes[list(data[task].rows).index(p)] for p in batch.positions])
                log_p = logits - logits.logsumexp(dim=1, keepdim=True)
                target = 0.9 * torch.eye(3)[codes] + 0.1 / 3
                loss = loss - getattr(block.weights, task) * (target * log_p).sum(dim=1).mean()
            names, weights = zip(*network.named_parameters(), strict=True)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            rate = block.learning_rate * (0.1 if epoch >= block.step_epochs else 1.0)
            with torch.no_grad():
                for name, weight, gradient in zip(names, weights, gradients, strict=True):
                    if gradient is None:  # the head of the other task
                        continue
                    change = gradient + block.weight_decay * weight
                    velocity[name] = change if name not in velocity else 0.9 * velocity[name] + change
                    weight -= rate * velocity[name]


@pytest.mark.parametrize("weights", [Weights(), Weights(expression=0.3, identity=1.7)])
@pytest.mark.parametrize(("schedule", "groups"), [("summed", [TASKS]), ("alternate", [(task,) for task in TASKS])])
def test_steps_are_those_of_a_plain_loop(
    faces: FaceSet, tmp_path: Path, schedule: str, groups: list[tuple[str, ...]], weights: Weights
) -> None:
    data = make_data(faces, *TASKS, n=40)
    plan = make_plan(schedule=schedule, optimizer="sgd", learning_rate=0.05, weights=weights)
    plan = replace(plan, epoch_steps=5)
    network, expected = build(*TASKS), build(*TASKS)
    run(network, data, plan, tmp_path / "u")
    run_plain_loop(expected, data, groups, plan.block)  # type: ignore[arg-type]
    # float32 sums in another order, over 15 or 30 steps
    torch.testing.assert_close(dict(network.state_dict()), dict(expected.state_dict()), rtol=2e-3, atol=2e-4)


def test_equal_fits_end_in_equal_bits(faces: FaceSet, tmp_path: Path) -> None:
    """Also if the first is finished and its file remains: it is not repeated."""
    data = make_data(faces, "identity")
    first, second = (run(build("identity"), data, make_plan(), tmp_path / name) for name in "ab")
    assert first == second == run(build("identity"), data, make_plan(), tmp_path / "a", report=interrupt_at(1))
    assert run(build("identity", seed=5), data, make_plan(), tmp_path / "c")[0] != first[0]
    assert run(build("identity"), data, make_plan(label_smoothing=0.0), tmp_path / "d")[0] != first[0]


class Interruption(BaseException):
    """As if the process had ended."""


def interrupt_at(step: int) -> Callable[[Status], None]:
    def report(status: Status) -> None:
        if status.step == step:
            raise Interruption

    return report


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 1, 2 * STEPS + 5, 3 * STEPS])
@pytest.mark.parametrize("tasks", [("identity",), TASKS])
def test_an_interrupted_fit_ends_in_the_same_bits(
    faces: FaceSet, tmp_path: Path, step: int, tasks: tuple[str, ...]
) -> None:
    data, steps = make_data(faces, *tasks), []
    expected = run(build(*tasks), data, make_plan(), tmp_path / "whole")
    with pytest.raises(Interruption):
        run(build(*tasks), data, make_plan(), tmp_path / "u", report=interrupt_at(step))
    continued = run(build(*tasks), data, make_plan(), tmp_path / "u", report=lambda status: steps.append(status.step))
    assert continued == expected
    assert steps[0] == (step - 1) // STEPS * STEPS + 1  # from the last whole epoch, not from the beginning


@pytest.mark.parametrize(
    "other",
    [make_plan(learning_rate=0.01), make_plan(code="newer"), make_plan(epochs=4), replace(make_plan(), epoch_steps=10)],
)
def test_a_fit_of_another_plan_is_not_continued(faces: FaceSet, tmp_path: Path, other: Plan) -> None:
    data = make_data(faces, "identity")
    expected = run(build("identity"), data, make_plan(), tmp_path / "whole")
    with pytest.raises(Interruption):
        run(build("identity"), data, other, tmp_path / "u", report=interrupt_at(2 * STEPS))
    assert run(build("identity"), data, make_plan(), tmp_path / "u") == expected


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: b"no such thing", lambda old: old[:-200]])
def test_a_damaged_file_costs_time_only(faces: FaceSet, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data, file = make_data(faces, "identity"), tmp_path / "u"
    expected = run(build("identity"), data, make_plan(), file)
    file.write_bytes(damage(file.read_bytes()))
    assert run(build("identity"), data, make_plan(), file) == expected


@pytest.mark.parametrize("schedule", ["summed", "alternate"])
def test_joint_and_single_task_networks_get_the_same_batches(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """Image by image and in the same order, equally augmented; the smaller task has as many batches as the larger."""
    batches: dict[int, list[tuple[Any, ...]]] = {}

    def record(faces: FaceSet, rows: np.ndarray, **options: Any) -> Any:
        for batch in iterate_batches(faces, rows, **options):
            digest = float(batch.images.double().pow(2).sum())
            batches.setdefault(len(rows), []).append((tuple(batch.positions), digest))
            yield batch

    monkeypatch.setattr(module, "iterate_batches", record)
    data = make_data(faces, "expression") | make_data(faces, "identity", n=40)
    plan = make_plan(epochs=2, schedule=schedule)
    run(build(*TASKS), data, plan, tmp_path / "joint")
    joint, batches = batches, {}
    for task in TASKS:
        run(build(task), {task: data[task]}, plan, tmp_path / task)
    assert joint == batches
    # the larger task once per epoch; the smaller one, of 5 batches, twice and a batch more
    assert [len(batches[n]) for n in (83, 40)] == [2 * STEPS, 2 * STEPS]
    passes = batches[83][:STEPS], batches[40][:5], batches[40][5:10]
    positions = [sorted(itertools.chain(*(positions for positions, _ in each))) for each in passes]
    assert positions == [list(range(83)), list(range(40)), list(range(40))]


def test_an_epoch_is_a_pass_through_the_largest_task() -> None:
    assert count_epoch_steps([83, 40], 8) == count_epoch_steps([40, 83], 8) == 11
    assert count_epoch_steps([80], 8) == 10
    assert count_epoch_steps([81, 5], 8) == 10  # a last batch of one image is dropped


def test_the_status_counts_steps_and_images(faces: FaceSet, tmp_path: Path) -> None:
    statuses: list[Status] = []
    network, plan = build(*TASKS).eval(), make_plan(epochs=2, schedule="alternate")
    _, history = run(
        network, make_data(faces, *TASKS), plan, tmp_path / "u", report=lambda status: statuses.append(replace(status))
    )
    assert [status.step for status in statuses] == list(range(1, 2 * 2 * STEPS + 1))
    assert {status.steps for status in statuses} == {4 * STEPS} and statuses[-1].images == 2 * 2 * 83
    assert statuses[-1].accuracy == pytest.approx(np.mean([row["accuracy"] for row in history[-2:]]))
    assert [(row["epoch"], row["task"]) for row in history] == list(itertools.product((1, 2), TASKS))
    assert not any(part.training for part in network.modules())  # the mode in which it was given


def test_dropout_repeats_itself_and_its_generator_is_detached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vgg16 has dropout; here narrow, on 32 px images of noise."""
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 16)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", ((3,),) * 5)
    data = {"identity": TaskData(write_noise_faces(tmp_path / "set", 4, 32), np.arange(4), np.array([0, 1, 0, 1]))}
    preset = Preset("small", 32, 1, resize=None, shift=0, flip=False, grey_probability=0.0)
    plan = replace(make_plan(epochs=1, batch_size=2, optimizer="sgd"), preset=preset, epoch_steps=2)
    results = []
    for name in "ab":
        network = build("identity", trunk="vgg16")
        results.append(run(network, data, plan, tmp_path / name))
        with pytest.raises(StudyError, match="draws from a generator of its own"):
            network.train()(torch.zeros(2, 1, 32, 32))
    assert results[0] == results[1]


def test_a_loss_that_is_not_finite_stops_the_fit(faces: FaceSet, tmp_path: Path) -> None:
    network = build("identity")
    torch.nn.init.constant_(network.heads["identity"].bias, float("inf"))
    message = r"diverged in epoch 1: after 1 steps the loss is nan\. Lower learning_rate \(now 0\.02\) in params\.yaml"
    with pytest.raises(StudyError, match=message):
        run(network, make_data(faces, "identity"), make_plan(), tmp_path / "u")
    assert not (tmp_path / "u").exists()


def test_other_tasks_and_too_few_images_are_refused(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"heads for \['identity'\], but faces were given for \['expression'\]"):
        run(build("identity"), make_data(faces, "expression"), make_plan(), tmp_path / "u")
    with pytest.raises(StudyError, match="task 'identity': 1 images with 1 classes; a fit needs at least 2 images"):
        run(build("identity"), make_data(faces, "identity", n=1), make_plan(), tmp_path / "u")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_equal_fits_end_in_equal_bits(faces: FaceSet, tmp_path: Path) -> None:
    data, plan = make_data(faces, "identity"), make_plan(device="cuda")
    first, second = (run(build("identity"), data, plan, tmp_path / name) for name in "ab")
    assert first == second
