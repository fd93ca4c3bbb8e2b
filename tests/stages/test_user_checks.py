"""What a user's network returns, and where results go, is checked before any lesion."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn

from facespec.analyses.lesions import LabelledImages
from facespec.responses.lesioned import LesionedNetwork
from facespec.stages import user_lesions as stage
from facespec.stages.user_checks import lock_output_dir
from facespec.stages.user_lesions import LesionOptions, UserModel, lesion_study, make_plan
from facespec.study.errors import StudyError
from toys import USER_MODULE

Logits = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def no_lesions() -> Iterator[pytest.MonkeyPatch]:
    """No test may reach the first lesion; one undoes this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "run_sweep", lambda *_, **__: pytest.fail("lesions began, without a refusal"))
        yield patch


# --- networks and images


class Wrapped(nn.Module):
    """Returns a function of a linear layer."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.layer, self.function = nn.Linear(4, 3), function

    def forward(self, images: torch.Tensor) -> Any:
        return self.function(self.layer(images))


def for_both(logits: torch.Tensor) -> Logits:
    return {"a": logits, "b": logits}


def label_ones(**classes: Any) -> LabelledImages:
    """Images of four ones."""
    return LabelledImages(
        lambda positions: torch.ones(len(positions), 4), {task: np.array(codes) for task, codes in classes.items()}
    )


IMAGES = label_ones(a=[0, 1, 2, 0], b=[1, 0, 0, -1])


def refuse_study(network: nn.Module, **changes: Any) -> str:
    with pytest.raises(StudyError) as error:
        lesion_study(network, **{"layers": ["layer"], "train": IMAGES, "test": IMAGES} | changes)
    return str(error.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, "the network returns Tensor: a dict is needed, task -> logits (n, classes)"),
        (lambda x: {"a": x}, "does not answer task 'b': Allowed: 'a'"),
        (lambda x: {"a": x, "b": 3}, "task 'b' to 2 images is int; needed: (2, classes)"),
        (lambda x: for_both(x[:, 0]), "task 'a' to 2 images is (2,); needed: (2, classes)"),
        (lambda x: for_both(x[:1]), "task 'a' to 2 images is (1, 3); needed: (2, classes)"),
        (lambda x: {"a": x, "b": x / 0}, "logits of task 'b' are not finite. Check its weights"),
        (
            lambda x: {"a": x, "b": x[:, :1]},
            "class 1 of task 'b' has no logit; the network gives 1, for the classes 0 to",
        ),
        (lambda x: x @ x, "Wrapped fails on torch.float32 images of shape (2, 4): RuntimeError: mat1 and mat2 shapes"),
        (
            lambda x: for_both(x - x.mean(dim=0) / 2),  # all images are equal, yet those of other lesions are not
            "cut behind 'layer', the network's logits of task 'a' are ",
        ),
    ],
)
def test_networks_that_return_no_logits_or_mix_images(function: Callable[[torch.Tensor], Any], message: str) -> None:
    assert message in refuse_study(Wrapped(function))


def test_a_network_whose_forward_keeps_a_state() -> None:
    """The first pass returns 2, the pass that is traced 4, which the trace then always returns."""
    passes: list[int] = []

    def count(logits: torch.Tensor) -> Logits:
        passes.append(1)
        return for_both(0 * logits + 2.0 ** len(passes))

    message = refuse_study(Wrapped(count))
    assert (
        "logits of task 'a' are 2 off, of 2 at most. Its forward must not draw random numbers, keep a state" in message
    )


def test_single_lesions_are_tried_as_the_ranking_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    original = LesionedNetwork.compute_single_lesions

    def lesion_others(self: LesionedNetwork, batch: Any, before: torch.Tensor, units: torch.Tensor) -> Any:
        return original(self, batch, before, (units + 1) % batch.units)

    monkeypatch.setattr(LesionedNetwork, "compute_single_lesions", lesion_others)
    assert "the network's logits of task 'a' without one unit are " in refuse_study(Wrapped(for_both))


@pytest.mark.parametrize("step", ["__init__", "prepare_batch", "compute_logits", "compute_single_lesions"])
def test_errors_of_torch_in_a_cut_network_name_the_layer(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(LesionedNetwork, step, fail)
    message = refuse_study(Wrapped(for_both))
    assert "layer 'layer' cannot be lesioned: RuntimeError: mat1 and mat2. Name another layer, or build" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "layer"}, "layers is 'layer': a list of different names is needed, the shallowest layer first"),
        ({"layers": []}, "layers is []: a list of different names is needed"),
        ({"layers": ["layer", "layer"]}, "layers is ['layer', 'layer']: a list of different names"),
        ({"layers": ["leyer"]}, "this network has no layer 'leyer': did you mean 'layer'?"),
        ({"train": label_ones(b=[0, 1], a=[0, 1])}, "train is about the tasks ('b', 'a'), test about ('a', 'b')"),
        ({"train": label_ones(a=[0, 1], b=[1, 1])}, "the train images show 1 class of task 'b'; at least 2 are needed"),
        ({"test": label_ones(a=[0, -1], b=[0, 1])}, "the test images show 1 class of task 'a'; at least 2 are needed"),
        ({"people": ["x", "y", "z"]}, "people has 3 names for 4 test images; each needs one"),
        ({"people": ["x", None, "z", "z"]}, "people has 3 names for 4 test images; each needs one"),
        ({"network": nn.ReLU()}, "ReLU has no weights: nothing in it can be lesioned"),
        # file names need not be UTF-8, but tables must
        ({"options": LesionOptions(name="\udcff")}, r"name '\udcff': UTF-8 has no such letters"),
        ({"options": LesionOptions(source="caf\udce9.csv")}, r"name 'caf\udce9.csv': UTF-8 has no such letters"),
    ],
)
def test_arguments_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    assert message in refuse_study(**{"network": Wrapped(for_both)} | changes)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("index", "a task is called 'index'; allowed is any text but 'index', a column's word"),
        ("a\ud800", r"name 'a\ud800': UTF-8 has no such letters, so no table can hold it. Rename it"),
    ],
)
def test_names_that_no_task_can_have(task: str, message: str) -> None:
    images = label_ones(**{task: [0, 1, 2, 0], "b": [1, 0, 0, 1]})
    assert message in refuse_study(Wrapped(for_both), train=images, test=images)


class HardToCut(nn.Module):
    """Two convolutions and a head, with a step of some `kind` in between."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(8)
        with torch.random.fork_rng():
            self.kind, self.layer, self.after = kind, nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
            self.columns, self.head = nn.Linear(5, 5), nn.Linear(4, 3)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw))

    def forward(self, images: torch.Tensor) -> Logits:
        responses = torch.relu(self.layer(images))
        if self.kind == "columns":
            responses = self.columns(responses)
        responses = self.after(responses)
        if self.kind == "positions":
            responses = responses + torch.arange(images.shape[-1])
        return for_both(self.head(torch.relu(responses).mean(dim=(2, 3))))


PICTURES = torch.randn(6, 1, 4, 5, generator=torch.Generator().manual_seed(2))
CLASSES = {"a": np.array([0, 1, 2] * 2), "b": np.array([1, 1, 0] * 2)}


def lesion_hard(kind: str, layer: str = "layer", report: Callable[[str], None] = print) -> dict[str, pd.DataFrame]:
    images = LabelledImages(lambda positions: PICTURES[positions], CLASSES)
    plan = make_plan(images=6, greedy_p=0.0, random=2, shuffled=1, draws=100, fractions=[0.34])
    return lesion_study(HardToCut(kind), [layer], train=images, test=images, options=LesionOptions(plan, report=report))


@torch.no_grad()
def compute_increases(kind: str, layer: str, *, units: int) -> dict[tuple[str, int], float]:
    """Task and unit -> what its lesion adds to the loss, by weights and bias of 0."""
    whole, losses = HardToCut(kind)(PICTURES), {}
    for unit in range(units):
        lesioned = HardToCut(kind)
        lesioned.get_parameter(f"{layer}.weight")[unit] = 0
        lesioned.get_parameter(f"{layer}.bias")[unit] = 0
        for task, logits in lesioned(PICTURES).items():
            classes = torch.from_numpy(CLASSES[task])
            loss, before = (nn.functional.cross_entropy(own, classes) for own in (logits, whole[task]))
            losses[task, unit] = (loss - before).item()
    return losses


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        ("positions", "layer", r"step 'arange' below the layer gives shape \(5,\) for 2 images"),
        ("columns", "columns", r"layer 'columns' has responses of shape \(2, 3, 4, 5\)"),
    ],
)
def test_what_cannot_be_cut_is_lesioned_by_whole_passes(
    no_lesions: pytest.MonkeyPatch, kind: str, layer: str, reason: str
) -> None:
    """Numbers without a row per image, and columns of a map as units."""
    no_lesions.undo()
    lines: list[str] = []
    ranking = lesion_hard(kind, layer, lines.append)["lesion_ranking"].query("condition == 'ranked'")
    (line,) = lines
    assert re.match(f"layer '{layer}': every lesion is a whole forward pass, which is slow, as {reason}", line)
    losses = compute_increases(kind, layer, units=ranking["unit"].nunique())
    increases = ranking.set_index(["ranked_by", "unit"])["increase"].to_dict()
    assert increases == pytest.approx(losses, abs=1e-5) and max(map(abs, losses.values())) > 0.1


def test_a_layer_before_one_that_mixes_columns(no_lesions: pytest.MonkeyPatch) -> None:
    no_lesions.undo()
    ranking = lesion_hard("columns")["lesion_ranking"].query("condition == 'ranked'")
    losses = compute_increases("columns", "layer", units=3)
    increases = ranking.set_index(["ranked_by", "unit"])["increase"].to_dict()
    assert increases == pytest.approx(losses, abs=1e-5) and min(map(abs, losses.values())) > 0.1


# --- the command's directory


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserModel:
    """A module, four pictures and their labels, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(USER_MODULE)
    rows = ["image,split,shape,tint", "0.png,train,0,0", "1.png,train,1,1", "2.png,test,2,0", "3.png,test,0,1"]
    Path("labels.csv").write_text("\n".join(rows))
    for number in range(4):
        Image.new("RGB", (5, 3), (60 * number, 7, 90)).save(f"{number}.png")
    return UserModel("toy.py:network", Path("labels.csv"), ["conv"], 4)


def refuse_run(model: UserModel, to: str = "to", *, device: str = "cpu") -> str:
    with pytest.raises(StudyError) as error:
        stage.run(model, make_plan(), to=Path(to), device=device, workers=1)
    return str(error.value)


def test_every_picture_is_read_before_the_first_lesion(model: UserModel) -> None:
    Path("1.png").write_text("no picture")
    assert refuse_run(model).startswith("1.png: not a readable image")


def test_a_device_that_does_not_exist(model: UserModel) -> None:
    assert "unknown device 'tpu'" in refuse_run(model, device="tpu")


def deny(*_: object, **__: object) -> Any:
    raise PermissionError(13, "Permission denied")


DENIED = "cannot be written ([Errno 13] Permission denied). Name a directory that you may write to"


def test_a_directory_that_cannot_be_written(model: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside it, where its lock is, nor in it; root may write anywhere, so that refusals are simulated."""
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", deny)
        assert f"to: {DENIED}" in refuse_run(model)
    assert not Path("to").exists()
    Path("to/.unfinished").mkdir(parents=True)
    original = tempfile.TemporaryFile
    for denied in (Path("to"), Path("to/.unfinished")):
        with monkeypatch.context() as patch:
            patch.setattr(
                tempfile, "TemporaryFile", lambda dir, denied=denied: deny() if dir == denied else original(dir=dir)
            )
            assert f"{denied}: {DENIED}" in refuse_run(model)
    assert not any(Path("to/.unfinished").iterdir())
    assert "labels.csv/to: cannot be written (" in refuse_run(model, "labels.csv/to"), "a file, not a directory"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_text("mine"), "a file"),
        (lambda path: path.symlink_to(Path("labels.csv").resolve()), "a file"),
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        (lambda path: path.symlink_to(path.name), "a link to nothing"),
    ],
)
@pytest.mark.parametrize("name", ["to", "to/.unfinished"])
def test_something_else_than_a_directory(model: UserModel, make: Callable[[Path], None], kind: str, name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    make(Path(name))
    before, labels = Path(name).lstat().st_ino, Path("labels.csv").read_bytes()
    assert f"{name}: {kind}, where a directory is needed. Remove it, or name another directory" in refuse_run(model)
    assert Path(name).lstat().st_ino == before and Path("labels.csv").read_bytes() == labels


@pytest.mark.parametrize("name", ["lesions.csv", "segregation.csv", "figure_lesions.pdf", "figure_lesion_classes.png"])
def test_a_directory_with_the_name_of_a_table_or_figure(model: UserModel, name: str) -> None:
    (Path("to") / name).mkdir(parents=True)
    message = refuse_run(model)
    assert re.search(rf"to/{name}: a directory, where a file will be written\. Remove it, or name another", message)


def test_a_link_and_its_directory_have_one_lock(model: UserModel) -> None:
    Path("disk").mkdir()
    Path("to").symlink_to("disk")
    with lock_output_dir(Path("disk"), subdirectory=".unfinished", files=[]):
        assert "another facespec run is making this" in refuse_run(model)
