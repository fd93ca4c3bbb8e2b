"""Whatever a user brings is looked at before any lesion, and refused with what is wrong and how to mend it."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from facespec import cli
from facespec.analyses.lesions import LabelledImages
from facespec.responses.lesioned import LesionedNetwork
from facespec.stages import own_lesions as stage
from facespec.stages.own_files import load_network, lock_output_dir, read_labels
from facespec.stages.own_lesions import Options, UserModel, lesion_study, make_plan, parse_plan
from facespec.study.errors import StudyError

TABLE = """image,split,group,shape,tint
0.png,train,a,0,0
1.png,train,b,1,1
2.png,test,a,2,0
3.png,test,b,0,1
"""
MODULE = """
import torch
from torch import nn

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            self.conv, self.relu = nn.Conv2d(3, 5, 1), nn.ReLU()
            self.shape, self.tint = nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, images):
        seen = self.relu(self.conv(images)).mean(dim=(2, 3))
        return {"shape": self.shape(seen), "tint": self.tint(seen)}

def network():
    return Toy()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserModel:
    """A module, four pictures and their labels, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(MODULE)
    Path("labels.csv").write_text(TABLE)
    for number in range(4):
        Image.new("RGB", (5, 3), (60 * number, 7, 90)).save(f"{number}.png")
    Path("sub").mkdir()
    Path("link.png").symlink_to("1.png")
    return UserModel("toy.py:network", Path("labels.csv"), ["conv"], 4)


def refused(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a run that must end before the first lesion."""
    monkeypatch.setattr(stage, "run_sweep", lambda *_, **__: pytest.fail("lesions began"))
    with pytest.raises(StudyError) as error:
        stage.run(own, make_plan(), to=Path("to"), device="cpu", workers=1)
    return str(error.value)


def changed(old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        assert old in TABLE
        Path("labels.csv").write_text(TABLE.replace(old, new))

    return change


@pytest.mark.parametrize(
    "change,message",
    [
        (
            Path("labels.csv").unlink,
            "labels.csv: no such file. It has a row per image: image, split, and a column per task.",
        ),
        (changed(TABLE, ""), "labels.csv: lacks column 'image'; it has []."),
        (
            changed("image,", "file,"),
            "labels.csv: lacks column 'image'; it has ['file', 'split', 'group', 'shape', 'tint'].",
        ),
        (
            changed(",split,", ",Split,"),
            "labels.csv: lacks column 'split'; it has ['image', 'Split', 'group', 'shape', 'tint'].",
        ),
        (
            changed(",group,", ",person,"),
            "labels.csv: besides image, split and group it has the columns ['person', "
            "'shape', 'tint']; needed are two, one per task.",
        ),
        (
            lambda: Path("labels.csv").write_text("image,split,tint\n"),
            "labels.csv: besides image, split and group it has the columns ['tint']; needed are two, one per task.",
        ),
        (
            changed(TABLE, "image,split,group,shape,tint\n"),
            "labels.csv: no row is of split 'train'; units are ranked on train, tested on test images.",
        ),
        (
            changed("1.png,train", "1.png,tran"),
            "labels.csv, line 3: split is 'tran': did you mean 'train'? Allowed: 'train', 'test'.",
        ),
        (
            changed(",test,", ",train,"),
            "labels.csv: no row is of split 'test'; units are ranked on train, tested on test images.",
        ),
        (
            changed("a,2,0", "a,round,0"),
            "labels.csv, line 4: shape is 'round': a class is the index of its logit, an "
            "integer from 0; empty: not known.",
        ),
        (
            changed("b,1,1", "b,1,-1"),
            "labels.csv, line 3: tint is '-1': a class is the index of its logit, an integer from 0; empty: not known.",
        ),
        (
            changed("b,1,1", "b,1,0.5"),
            "labels.csv, line 3: tint is '0.5': a class is the index of its logit, an "
            "integer from 0; empty: not known.",
        ),
        (
            changed("2.png", "7.png"),
            "labels.csv, line 4: image is '7.png': no such file; paths are relative to the table.",
        ),
        (changed("3.png", ""), "labels.csv, line 5: image is '': no such file; paths are relative to the table."),
        (
            changed("3.png", "./1.png"),
            "labels.csv, line 5: image is './1.png': it is among the train images too; test on images held out.",
        ),
        (
            changed("3.png", "sub/../1.png"),
            "labels.csv, line 5: image is 'sub/../1.png': it is among the train images too; test on images held out.",
        ),
        (
            changed("3.png", "link.png"),
            "labels.csv, line 5: image is 'link.png': it is among the train images too; test on images held out.",
        ),
        (changed(",tint", ", shape "), "labels.csv: several columns are called 'shape'. Give each a name of its own."),
        (changed(",group,", ",image,"), "labels.csv: several columns are called 'image'. Give each a name of its own."),
        (
            changed("1.png,train,b,1,1", "1.png,train,b,1,1,"),
            "labels.csv: line 3: cells: 6, in the header: 5. Give every row as many cells as the header has.",
        ),
        (
            changed("1.png,train,b,1,1", "1.png,train"),
            "labels.csv: line 3: cells: 2, in the header: 5. Give every row as many cells as the header has.",
        ),
        (
            changed("b,1,1", "b,1,inf"),
            "labels.csv, line 3: tint is 'inf': a class is the index of its logit, an "
            "integer from 0; empty: not known.",
        ),
        (
            changed("1.png", "1.png" + "x" * 200_000),
            "labels.csv: line 3: field larger than field limit (131072). Write one row to a line, with short cells.",
        ),
        (
            changed("1.png", "1.png" + "x" * 300),
            f"labels.csv, line 3: image is '1.png{'x' * 300}': cannot be looked "
            "for (File name too long); mend its path or permissions.",
        ),
        (changed("1.png", "1\0.png"), "labels.csv: no text in UTF-8 (byte 48 is 0x00). Save it as CSV in UTF-8."),
        (
            lambda: Path("labels.csv").write_text(TABLE, encoding="utf-16"),
            "labels.csv: no text in UTF-8 (byte 0 is 0xff). Save it as CSV in UTF-8.",
        ),
        (
            lambda: Path("labels.csv").write_text(TABLE + "Zo\u00eb", encoding="latin-1"),
            "labels.csv: no text in UTF-8 (byte 101 is 0xeb). Save it as CSV in UTF-8.",
        ),
        (
            lambda: Path("labels.csv").unlink() or Path("labels.csv").mkdir(),
            "labels.csv: no such file. It has a row per image: image, split, and a column per task.",
        ),
        (
            changed("3.png,test,b", "3.png,test,"),
            "labels.csv, line 5: group is '': name whom or what each test image shows, or leave the column out.",
        ),
        (changed("b,0,1", "b,2,"), "the test images show 1 class of task 'shape'; at least 2 are needed."),
        (changed("b,1,1", "b,1,0"), "the train images show 1 class of task 'tint'; at least 2 are needed."),
        (changed("tint", "index"), "a task is called 'index'; allowed is any text but 'index', a column's word."),
        (
            changed("a,2,0", "a,3,0"),
            "class 3 of task 'shape' has no logit; the network gives 3, for the classes 0 to 2.",
        ),
        (
            changed("tint", "taint"),
            "the network does not answer task 'taint': did you mean 'tint'? Allowed: 'shape', 'tint'.",
        ),
    ],
)
def test_a_table_that_cannot_be_used(
    own: UserModel, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], message: str
) -> None:
    change()
    assert refused(own, monkeypatch) == message


def test_pictures_that_cannot_be_used(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those far behind the first: all are read before the first lesion."""
    how = "Save it anew, with 8 bits per channel, or take its row out."
    Path("1.png").write_bytes(Path("1.png").read_bytes()[:50])
    assert refused(own, monkeypatch) == f"1.png: not a readable image (truncated or damaged). {how}"
    Path("1.png").write_text("no picture")
    assert refused(own, monkeypatch) == f"1.png: not a readable image (not a JPEG, PNG or BMP picture). {how}"
    Image.fromarray(np.full((3, 5), 40_000, dtype=np.uint16)).save("1.png")
    told = "mode I;16: more than 8 bits per channel"
    assert refused(own, monkeypatch) == f"1.png: not a readable image ({told}). {how}"


@pytest.mark.parametrize("ending", ["EPS", "GIF", "TIFF"])
def test_other_formats_are_refused_and_start_no_program(
    own: UserModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    """Pillow has Ghostscript, looked for in PATH, draw what begins as EPS does, whatever the name of the file."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'it_ran'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    Image.new("RGB", (5, 3)).save("1.png", ending)
    assert refused(own, monkeypatch) == (
        "1.png: not a readable image (not a JPEG, PNG or BMP picture). "
        "Save it anew, with 8 bits per channel, or take its row out."
    )
    assert not (tmp_path / "it_ran").exists()
    if ending == "EPS":
        with pytest.raises(Exception, match=r"."), Image.open("1.png") as picture:
            picture.load()
        assert (tmp_path / "it_ran").exists()  # why formats are listed


def test_pictures_and_tables_too_large_to_be_any(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    how = "Save it anew, with 8 bits per channel, or take its row out."
    with monkeypatch.context() as patched:
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 14)
        assert refused(own, patched) == f"2.png: not a readable image (more pixels than any face). {how}"
    with Path("1.png").open("ab") as file:
        file.truncate(2**33)
    assert refused(own, monkeypatch) == f"1.png: not a readable image (larger than 64 MiB). {how}"
    with Path("labels.csv").open("ab") as file:
        file.truncate(2**33)
    assert refused(own, monkeypatch) == "labels.csv: larger than 64 MiB."


def test_files_that_may_not_be_read(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so that a refusal is played."""
    really = Path.open

    def forbidding(name: str) -> Callable[..., Any]:
        def opening(path: Path, *arguments: Any, **more: Any) -> Any:
            if path.name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return really(path, *arguments, **more)

        return opening

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", forbidding("labels.csv"))
        assert refused(own, patched) == "labels.csv: may not be read. Change its permissions."
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", forbidding("1.png"))
        assert refused(own, patched).startswith("1.png: not a readable image (Permission denied). Save it anew")


@pytest.mark.parametrize(
    "module,source,message",
    [
        ("toy.py", MODULE, "--module toy.py: expected FILE.py:FUNCTION, for example networks.py:resnet."),
        ("toy.py:", MODULE, "--module toy.py:: expected FILE.py:FUNCTION, for example networks.py:resnet."),
        ("toy:network", MODULE, "--module toy:network: expected FILE.py:FUNCTION, for example networks.py:resnet."),
        ("tay.py:network", MODULE, "--module tay.py:network: no file tay.py."),
        ("toy.py:netwerk", MODULE, "toy.py: no function 'netwerk': did you mean 'network'? Allowed: 'Toy', 'network'."),
        ("toy.py:network", "network = 3\n", "toy.py: no function 'network': it has none."),
        ("toy.py:network", "def network(:\n", "toy.py raises SyntaxError: invalid syntax (toy.py, line 1)"),
        ("toy.py:network", "import notthere\n", "toy.py raises ModuleNotFoundError: No module named 'notthere'"),
        (
            "toy.py:network",
            "def network():\n    raise OSError('no weights')\n",
            "toy.py: network() raises OSError: no weights",
        ),
        (
            "toy.py:network",
            "def network():\n    return 3\n",
            "toy.py: network() returns int, not a torch.nn.Module with weights.",
        ),
        (
            "toy.py:network",
            "from torch import nn\n\ndef network():\n    return nn.ReLU()\n",
            "toy.py: network() returns ReLU, not a torch.nn.Module with weights.",
        ),
        (
            "toy.py:network",
            MODULE.replace("Linear(5, 3)", "Linear(4, 3)"),
            "Toy fails on torch.float32 images of shape "
            "(2, 3, 4, 4): RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x5 and 4x3)",
        ),
    ],
)
def test_a_module_that_cannot_be_used(
    own: UserModel, monkeypatch: pytest.MonkeyPatch, module: str, source: str, message: str
) -> None:
    Path("toy.py").write_text(source)
    told = refused(replace(own, module=module), monkeypatch)
    assert told.replace(str(Path.cwd()) + "/", "") == message


def test_layers_device_and_directory_that_are_not_there(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(replace(own, layers=["conv", "reLu"]), monkeypatch) == (
        "this network has no layer 'reLu': did you mean 'relu'? Allowed: 'conv', 'relu', 'shape', 'tint'."
    )
    assert refused(replace(own, layers=["conv", "conv"]), monkeypatch) == (
        "layers is ['conv', 'conv']: a list of different names is needed, the shallowest layer first."
    )
    with pytest.raises(StudyError, match="unknown device 'tpu'"):
        stage.run(own, make_plan(), to=Path("to"), device="tpu", workers=1)


def denied(*_: object, **__: object) -> Any:
    raise PermissionError(13, "Permission denied")


def test_a_directory_that_cannot_be_written(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside it, where its lock lies, nor in it; root may write anywhere, so that a refusal is played."""
    told = "to: cannot be written ([Errno 13] Permission denied). Name a directory that you may write to, in another "
    with monkeypatch.context() as patched:
        patched.setattr(FileLock, "acquire", denied)
        assert refused(own, patched) == told + "such one."
    assert not Path("to").exists()
    Path("to").mkdir()
    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    assert refused(own, monkeypatch) == told + "such one."
    assert not any(Path("to").iterdir())


def test_a_directory_below_a_file(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "run_sweep", denied)
    with pytest.raises(StudyError, match=r"^labels.csv/to: cannot be written \(.*labels.csv'\)\. Name a directory"):
        stage.run(own, make_plan(), to=Path("labels.csv/to"), device="cpu", workers=1)


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_link_to_a_file(path: Path) -> None:
    path.symlink_to(Path("labels.csv").resolve())


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [make_file, make_link_to_a_file, make_dangling_link, make_link_to_itself])
@pytest.mark.parametrize("name", ["to", "to/.unfinished"])
def test_a_place_for_files_that_is_no_directory(
    own: UserModel, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], name: str
) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    make(Path(name))
    before = Path(name).lstat().st_ino
    what = "a file" if make in (make_file, make_link_to_a_file) else "a link to nothing"
    assert refused(own, monkeypatch) == (
        f"{name}: {what}, where a directory is needed. Remove it, or name another directory for the tables and figures."
    )
    assert Path(name).lstat().st_ino == before and Path("labels.csv").read_text() == TABLE


@pytest.mark.parametrize("name", ["lesions.csv", "segregation.csv", "figure_lesions.pdf", "figure_lesion_classes.png"])
def test_a_directory_in_the_place_of_a_table_or_figure(
    own: UserModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (Path("to") / name).mkdir(parents=True)
    assert refused(own, monkeypatch) == (
        f"to/{name}: a directory, where a file will be written. Remove it, or name another directory for the tables "
        "and figures."
    )


def test_unfinished_jobs_that_cannot_be_written(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("to/.unfinished").mkdir(parents=True)
    real = tempfile.TemporaryFile

    def denied_there(**options: Any) -> Any:
        return denied() if options["dir"] == Path("to/.unfinished") else real(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", denied_there)
    assert refused(own, monkeypatch).startswith("to/.unfinished: cannot be written ([Errno 13] Permission denied). ")


def test_a_link_and_its_directory_are_held_together(own: UserModel, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("disk").mkdir()
    Path("to").symlink_to("disk")
    with lock_output_dir(Path("disk")):
        assert "another facespec run is making this" in refused(own, monkeypatch)


class Said(nn.Module):
    """Answers what it is told to."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.layer, self.answer = nn.Linear(4, 3), answer

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(self.layer(images))


def study(network: nn.Module, **changes: Any) -> str:
    """The message that refuses a study of four images of four numbers."""
    classes = {"a": np.array([0, 1, 2, 0]), "b": np.array([1, 0, 0, -1])}
    trials = LabelledImages(lambda positions: torch.ones(len(positions), 4), classes)
    with pytest.raises(StudyError) as error:
        lesion_study(network, **{"layers": ["layer"], "train": trials, "test": trials} | changes)
    return str(error.value)


def both(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a": logits, "b": logits}


@pytest.mark.parametrize(
    "answer,message",
    [
        (lambda x: x, "the network returns Tensor: a dict is needed, task -> logits (n, classes)."),
        (lambda x: {"a": x}, "the network does not answer task 'b': Allowed: 'a'."),
        (lambda x: {"a": x, "b": 3}, "the network's answer of task 'b' to 2 images is int; needed: (2, classes)."),
        (lambda x: both(x[:, 0]), "the network's answer of task 'a' to 2 images is (2,); needed: (2, classes)."),
        (lambda x: both(x[:1]), "the network's answer of task 'a' to 2 images is (1, 3); needed: (2, classes)."),
        (lambda x: {"a": x, "b": x / 0}, "the network's logits of task 'b' are not finite. Check its weights."),
        (
            lambda x: {"a": x, "b": x[:, :1]},
            "class 1 of task 'b' has no logit; the network gives 1, for the classes 0 to 0.",
        ),
    ],
)
def test_answers_that_do_not_fit(answer: Callable[[torch.Tensor], Any], message: str) -> None:
    assert study(Said(answer)) == message


def test_a_network_that_its_trace_does_not_follow() -> None:
    """The first pass answers 2, and the pass that is traced 4, for ever."""
    passes: list[int] = []

    def counted(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        passes.append(1)
        return both(0 * logits + 2.0 ** len(passes))

    assert study(Said(counted)) == (
        "cut behind 'layer', the network's logits of task 'a' are 2 off, of 2 at most. Its forward must not draw "
        "random numbers, keep a state, or mix images."
    )


def test_a_network_whose_images_influence_each_other() -> None:
    """Even if all images are the same: those of other lesions are not."""
    told = study(Said(lambda logits: both(logits - logits.mean(dim=0) / 2)))
    assert re.fullmatch(
        r"cut behind 'layer', the network's logits of task 'a' are [\d.e-]+ off, of .* mix images\.", told
    )


def test_lesions_of_one_unit_are_tried_as_the_ranking_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LesionedNetwork.compute_single_lesions

    def others(self: LesionedNetwork, batch: Any, silent: torch.Tensor, units: torch.Tensor) -> Any:
        return real(self, batch, silent, (units + 1) % batch.units)

    monkeypatch.setattr(LesionedNetwork, "compute_single_lesions", others)
    told = study(Said(both))
    assert told.startswith("cut behind 'layer', the network's logits of task 'a' without one unit are ")


@pytest.mark.parametrize("step", ["__init__", "batch", "answers", "singles"])
def test_whatever_torch_raises_in_a_cut_names_the_layer(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fails(*_: object) -> Any:
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(LesionedNetwork, step, fails)
    assert study(Said(both)) == (
        "layer 'layer' cannot be lesioned: RuntimeError: mat1 and mat2. Name another layer, or build what follows it "
        "of plain modules."
    )


class Hard(nn.Module):
    """Two convolutions and a head, made hard to cut: see the test."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(8)
        with torch.random.fork_rng():
            self.kind, self.layer, self.after = kind, nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
            self.wide, self.head = nn.Linear(5, 5), nn.Linear(4, 3)
            if kind == "parametrized":
                spectral_norm(self.after)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = torch.relu(self.layer(images))
        if self.kind == "wide":
            seen = self.wide(seen)
        seen = self.after(seen)
        if self.kind == "positions":
            seen = seen + torch.arange(images.shape[-1])
        return both(self.head(torch.relu(seen).mean(dim=(2, 3))))


def hard(kind: str, layer: str = "layer") -> dict[str, pd.DataFrame]:
    pictures = torch.randn(6, 1, 4, 5, generator=torch.Generator().manual_seed(2))
    trials = LabelledImages(lambda rows: pictures[rows], {"a": np.array([0, 1, 2] * 2), "b": np.array([1, 1, 0] * 2)})
    plan = make_plan(images=6, greedy_p=0.0, random=2, shuffled=1, draws=100, fractions=[0.34])
    return lesion_study(Hard(kind), [layer], train=trials, test=trials, options=Options(plan))


def test_networks_that_are_hard_to_cut_are_cut_right_or_refused() -> None:
    """Weights that are computed, and numbers without a row per image, are refused; columns of a map are no units."""
    with pytest.raises(StudyError, match=r"^module 'after' .*parametriz.* cannot be copied"):
        hard("parametrized")
    with pytest.raises(StudyError, match=r"^step 'arange' below the layer gives shape \(5,\) for 2 images"):
        hard("positions")
    with pytest.raises(StudyError, match=r"^layer 'wide' has responses of shape \(2, 3, 4, 5\)"):
        hard("wide", "wide")
    ranking = hard("wide")["lesion_ranking"].query("condition == 'ranked'").set_index(["ranked_by", "unit"])["increase"]
    network, pictures = Hard("wide"), torch.randn(6, 1, 4, 5, generator=torch.Generator().manual_seed(2))
    classes = {"a": torch.tensor([0, 1, 2] * 2), "b": torch.tensor([1, 1, 0] * 2)}
    whole, losses = network(pictures), {}
    for unit in range(3):
        silent = Hard("wide")
        with torch.no_grad():
            silent.layer.weight[unit], silent.layer.bias[unit] = 0, 0  # a rectified 0 is silent
            losses |= {
                (task, unit): (
                    nn.functional.cross_entropy(silent(pictures)[task], own)
                    - nn.functional.cross_entropy(whole[task], own)
                ).item()
                for task, own in classes.items()
            }
    assert ranking.to_dict() == pytest.approx(losses, abs=1e-5) and min(map(abs, losses.values())) > 0.1


def test_what_the_python_call_refuses() -> None:
    network = Said(both)
    assert study(network, layers="layer") == (
        "layers is 'layer': a list of different names is needed, the shallowest layer first."
    )
    assert study(network, layers=[]) == "layers is []: a list of different names is needed, the shallowest layer first."
    other = LabelledImages(lambda _: torch.ones(1, 4), {"b": np.array([0, 1]), "a": np.array([0, 1])})
    assert study(network, train=other) == (
        "train is about the tasks ('b', 'a'), test about ('a', 'b'); both need the same."
    )
    assert study(network, people=["x", "y", "z"]) == "people has 3 names for 4 test images; each needs one."
    assert study(network, people=["x", None, "z", "z"]) == "people has 3 names for 4 test images; each needs one."
    assert study(nn.ReLU()) == "ReLU has no weights: nothing in it can be lesioned."


@pytest.mark.parametrize("wrong", [{"name": ""}, {"source": ""}, {"seed": -1}, {"workers": 0}])
def test_options_that_no_table_could_hold(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"^Options\(.*\): name and source need a letter; seed is at least 0, workers"):
        Options(**wrong)


@pytest.mark.parametrize("wrong", [{"name": "\udcff"}, {"source": "caf\udce9.csv"}])
def test_names_that_no_text_file_can_hold(wrong: dict[str, Any]) -> None:
    """As of files whose names are not in UTF-8: no table could be written in the end."""
    with pytest.raises(StudyError) as error:
        lesion_study(Said(both), ["layer"], **halves("a", "b"), options=Options(**wrong))
    (text,) = wrong.values()
    assert str(error.value) == f"name {text!r}: UTF-8 has no such letters, so no table can hold it. Rename it."


def halves(one: str, other: str) -> dict[str, LabelledImages]:
    trials = LabelledImages(
        lambda rows: torch.ones(len(rows), 4), {one: np.array([0, 1, 2, 0]), other: np.array([1, 0, 0, 1])}
    )
    return {"train": trials, "test": trials}


def test_a_task_that_no_text_file_can_hold() -> None:
    with pytest.raises(StudyError, match=r"^name 'a\\ud800': UTF-8 has no such letters"):
        lesion_study(Said(both), ["layer"], **halves("a\ud800", "b"))


@pytest.mark.parametrize(
    "settings,message",
    [
        (["mode=quick"], "plan of lesions: mode: Input should be 'exact' or 'screening'"),
        (
            ["image=7"],
            "plan of lesions: unknown key 'image': did you mean 'images'? Allowed: 'group_p', 'greedy_p', "
            "'images', 'mode', 'fractions', 'random', 'shuffled', 'draws', 'seed'.",
        ),
        (
            ["random=3", "images=0"],
            "plan of lesions: images: Input should be greater than or equal to 1\n"
            "plan of lesions: random: Input should be a multiple of 2",
        ),
        (["images"], "setting 'images': expected NAME=VALUE, for example images=64 or fractions=[0.1, 0.2]."),
        (["=3"], "setting '=3': expected NAME=VALUE, for example images=64 or fractions=[0.1, 0.2]."),
        (
            ["fractions=[0.1"],
            "setting 'fractions=[0.1': not valid YAML: expected ',' or ']', but got '<stream end>' in line 1.",
        ),
        (["images=3", "images=4"], "setting 'images=4': images is set twice. Keep one of the settings."),
        (["images=010", "random=1e-1"], "plan of lesions: random: Input should be a valid integer"),
    ],
)
def test_plans_that_are_not_allowed(settings: list[str], message: str) -> None:
    with pytest.raises(StudyError) as error:
        parse_plan(settings)
    assert str(error.value) == message


def test_without_the_projects_parameters_a_plan_must_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "PROJECT", tmp_path)
    with pytest.raises(StudyError) as error:
        make_plan()
    assert str(error.value) == (
        f"{tmp_path / 'params.yaml'}: no such file, as the package lies outside a clone of the project. Pass a plan: "
        "facespec.study.params.Lesions."
    )


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["facespec", "lesions", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


NEEDED = "facespec: lesions of your own network need --module, --labels, --layer, --to; missing: "
WITHOUT = ". Without any of its options, this study's joint networks are lesioned.\n"


@pytest.mark.parametrize(
    "words,missing",
    [
        ("--module a.py:b", "--labels, --layer, --to"),
        ("--labels t.csv --layer x --to d", "--module"),
        ("--module a.py:b --layer x --to d", "--labels"),
        ("--module a.py:b --labels t.csv --to d", "--layer"),
        ("--module a.py:b --labels t.csv --layer x", "--to"),
        ("--size 9", "--module, --labels, --layer, --to"),
        ("--mode exact", "--module, --labels, --layer, --to"),
        ("--set images=9", "--module, --labels, --layer, --to"),
    ],
)
def test_all_of_the_options_for_own_networks_or_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, missing: str
) -> None:
    assert said(capsys, monkeypatch, *words.split()) == NEEDED + missing + WITHOUT


def test_without_them_the_study_is_meant(
    own: UserModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, monkeypatch, "--workers", "1").startswith("facespec: params.yaml: no such file.")


def test_images_are_looked_for_beside_the_table_and_opened_later(own: UserModel, tmp_path: Path) -> None:
    Path("labels.csv").rename("sub/labels.csv")
    with pytest.raises(StudyError, match=r"^sub/labels.csv, line 2: image is '0.png': no such file"):
        read_labels(Path("sub/labels.csv"), size=4)
    for picture in tmp_path.glob("*.png"):
        picture.rename(tmp_path / "sub" / picture.name)
    train, _, _ = read_labels(Path("sub/labels.csv"), size=4)
    (tmp_path / "sub" / "1.png").unlink()
    assert train.images(np.array([0])).shape == (1, 3, 4, 4)
    with pytest.raises(StudyError, match=r"^sub/1.png: not a readable image \(No such file"):
        train.images(np.array([1]))


def test_a_file_is_loaded_anew_every_time(own: UserModel) -> None:
    first = load_network("toy.py:network")
    Path("toy.py").write_text(MODULE.replace("Conv2d(3, 5, 1)", "Conv2d(3, 5, (1, 1))"))
    assert type(first) is not type(load_network("toy.py:network"))
