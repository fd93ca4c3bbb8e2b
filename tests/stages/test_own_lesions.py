"""Lesions of anybody's network: planted and absent segregation, the documented example, and going on after a kill."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer.main
from PIL import Image
from torch import nn

from facespec import cli
from facespec.analyses.lesions import LabelledImages
from facespec.stages import own_lesions as stage
from facespec.stages import sweep
from facespec.stages.own_files import load_network, read_labels
from facespec.stages.own_lesions import Options, UserModel, lesion_study, make_plan
from facespec.study.params import read_params
from facespec.study.tables_lesions import DISSOCIATION, LESION_CLASSES, LESION_RANKING, LESIONS, SEGREGATION

SCHEMAS = {table.name: table for table in (LESION_RANKING, LESIONS, LESION_CLASSES, DISSOCIATION, SEGREGATION)}
FILES = {f"{name}.csv{digest}" for name in SCHEMAS for digest in ("", ".sha256")} | {
    f"figure_{name}.{kind}" for name in ("lesions", "lesion_classes") for kind in ("pdf", "png")
}
QUICK = {"images": 5, "greedy_p": 0.3, "random": 2, "shuffled": 1, "draws": 100, "fractions": [0.25, 0.5]}
CASES = np.array([(shape, tint) for shape in range(3) for tint in range(2)])
PEOPLE = 4


class Planted(nn.Module):
    """Twelve units: of `own` ones, six see the shape (channels 0 to 2) and six the tint (3 and 4); else all see both.

    Units are in disorder. Every head reads all units, with weights of 0 for those that its task does not need.
    """

    UNITS = np.array([3, 0, 4, 1, 2, 3, 4, 0, 1, 2, 4, 3])  # which channel each unit sees

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        sees = torch.eye(5)[torch.from_numpy(self.UNITS)]
        with torch.random.fork_rng(), torch.no_grad():
            self.conv = nn.Conv2d(5, 12, 1, bias=False)
            self.shape, self.tint = nn.Linear(12, 3, bias=False), nn.Linear(12, 2 if own else 3, bias=False)
            self.conv.weight.copy_(sees[:, :, None, None])
            self.shape.weight.copy_(sees.T[:3])
            self.tint.weight.copy_(sees.T[3:] if own else sees.T[:3])

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.flatten(self.pool(self.relu(self.conv(images))))
        return {"shape": self.shape(seen), "tint": self.tint(seen)}


def trials(*, own: bool, people: int = PEOPLE) -> LabelledImages:
    """Every person shows every case once; if not `own`, both tasks ask for the shape."""
    shape, tint = np.tile(CASES, (people, 1)).T
    seen = (np.arange(3) == shape[:, None]), (np.arange(2) == tint[:, None])
    pixels = torch.from_numpy(np.concatenate(seen, axis=1)).float()[:, :, None, None].expand(-1, -1, 3, 7)
    return LabelledImages(lambda positions: pixels[positions], {"shape": shape, "tint": tint if own else shape})


def planted(*, own: bool, network: nn.Module | None = None) -> dict[str, pd.DataFrame]:
    return lesion_study(
        network or Planted(own=own),
        ["conv"],
        train=trials(own=own, people=3),
        test=trials(own=own),
        people=[f"person {person}" for person in range(PEOPLE) for _ in CASES],
        options=Options(make_plan(**QUICK | {"images": 18}), name="planted", source="toy", seed=3),
    )


def index(tables: dict[str, pd.DataFrame], condition: str, fraction: float) -> tuple[float, ...]:
    row = tables["segregation"].query("condition == @condition and fraction == @fraction and quantity == 'index'")
    return tuple(row[["number", "low", "high", "defined", "people"]].iloc[0])


def test_halves_of_their_own_are_found_and_dissociate_doubly() -> None:
    tables = planted(own=True)
    assert set(tables) == set(SCHEMAS)
    assert index(tables, "ranked", 0.5) == (1, 1, 1, 1, PEOPLE)
    ranking = tables["lesion_ranking"].query("condition == 'ranked' and rank < 6")
    for task, channels in (("shape", {0, 1, 2}), ("tint", {3, 4})):
        found = ranking.loc[ranking["ranked_by"] == task, "unit"]
        assert set(Planted.UNITS[found]) == channels and found.nunique() == 6
    drops = tables["lesions"].query("condition in ('ranked', 'keep') and ranked_by != '' and fraction == 0.5")
    found = drops.set_index(["condition", "ranked_by", "tested_on"])["drop"].to_dict()
    assert found == {
        ("ranked", "shape", "shape"): 1,
        ("ranked", "shape", "tint"): 0,
        ("ranked", "tint", "tint"): 1,
        ("ranked", "tint", "shape"): 0,
        ("keep", "shape", "shape"): 0,
        ("keep", "shape", "tint"): 1,
        ("keep", "tint", "tint"): 0,
        ("keep", "tint", "shape"): 1,
    }
    alone = tables["dissociation"].query("fraction == 0.5")
    assert (alone["number"] == 1).all() and set(alone["quantity"]) == {"shape", "tint", "index"}
    place = tables["lesions"][["trained_on", "source", "seed", "layer", "depth", "units"]].drop_duplicates()
    assert place.to_numpy().tolist() == [["planted", "toy", 3, "conv", 1, 12]]


def test_shared_units_part_no_tasks() -> None:
    tables = planted(own=False)
    assert index(tables, "ranked", 0.5) == (0, 0, 0, 1, PEOPLE)
    assert (tables["dissociation"].query("fraction == 0.5")["number"] == 0).all()
    assert tables["lesions"].query("condition == 'ranked' and fraction == 0.5")["drop"].min() > 0


class Paired(nn.Module):
    """A unit for each pair of classes, one of either task, k of each: it answers to both and tells both heads alike."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        sees = torch.cat([torch.eye(k).repeat_interleave(k, dim=0), torch.eye(k).repeat(k, 1)], dim=1)
        with torch.random.fork_rng(), torch.no_grad():
            self.conv = nn.Conv2d(2 * k, k * k, 1, bias=False)
            self.one, self.other = nn.Linear(k * k, k, bias=False), nn.Linear(k * k, k, bias=False)
            self.conv.weight.copy_(sees[:, :, None, None])
            self.one.weight.copy_(sees.T[:k])
            self.other.weight.copy_(sees.T[k:])

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.flatten(self.pool(self.relu(self.conv(images))))
        return {"one": self.one(seen), "other": self.other(seen)}


def test_units_of_single_classes_dissociate_tasks_that_share_all_units() -> None:
    """As `docs/lesions.md` warns. Without the 4 units of one class, the other task has 3 left for each of its own.

    Without half of the units, two classes are never named, which costs (1/2) / (3/4) of the accuracy above chance, and
    every class of the other task has 2 units. The same if only that half is kept.
    """
    one, other = np.divmod(np.arange(16), 4)
    pixels = torch.from_numpy(np.concatenate([np.eye(4)[one], np.eye(4)[other]], axis=1)).float()[:, :, None, None]
    trials = LabelledImages(lambda positions: pixels[positions], {"one": one, "other": other})
    plan = make_plan(**QUICK | {"images": 16, "greedy_p": 0.5, "shuffled": 20})
    tables = lesion_study(Paired(4), ["conv"], train=trials, test=trials, options=Options(plan))
    drops = tables["lesions"].query("condition in ('ranked', 'keep') and ranked_by != ''").copy()
    drops["own"] = drops["ranked_by"] == drops["tested_on"]
    found = drops.groupby(["condition", "fraction", "own"])["drop"].agg(["min", "max"]).round(9)
    assert (found["min"] == found["max"]).all()  # both tasks alike
    for at, drop in {("ranked", 0.25): 1 / 3, ("ranked", 0.5): 2 / 3, ("keep", 0.25): 1, ("keep", 0.5): 2 / 3}.items():
        assert found["min"][at].to_dict() == pytest.approx({True: drop, False: 0}), at
    assert index(tables, "ranked", 0.25)[:3] == index(tables, "ranked", 0.5)[:3] == (1, 1, 1)
    assert abs(index(tables, "shuffled", 0.5)[0]) < 0.2
    # the figure of classes tells: some are lost, the others whole, while any units harm all alike
    half = tables["lesion_classes"].query("fraction == 0.5 and ranked_by == tested_on")
    assert half.groupby("tested_on")["recall"].apply(sorted).to_list() == [[0, 0, 1, 1]] * 2
    lost = tables["lesions"].query("fraction == 0.5 and condition == 'ranked' and ranked_by == tested_on")
    assert lost["between_classes"].to_list() == [1, 1]


def test_the_network_comes_back_as_it_was() -> None:
    network = Planted(own=True).train()
    network.relu.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    children = list(network.named_modules())
    planted(own=True, network=network)
    assert [module.training for module in network.modules()] == modes
    assert list(network.named_modules()) == children
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in network.modules()]
    assert not any(hooks)
    assert all(own.requires_grad and own.grad is None for own in network.parameters())


def test_without_people_every_image_stands_for_itself_and_the_order_of_layers_is_their_depth() -> None:
    tables = lesion_study(
        Planted(own=True),
        ["relu", "conv"],
        train=trials(own=True),
        test=trials(own=True),
        options=Options(make_plan(**QUICK), workers=2),
    )
    segregation = tables["segregation"]
    assert set(segregation["people"]) == {PEOPLE * len(CASES)}
    assert set(zip(segregation["layer"], segregation["depth"], strict=True)) == {("relu", 1), ("conv", 2)}
    assert set(segregation["source"]) == {"own images"} and set(segregation["trained_on"]) == {"own"}


def test_the_default_plan_is_the_projects_own(project: Path) -> None:
    plan = read_params(project / "params.yaml").lesions
    assert make_plan() == plan
    assert stage.parse_plan(["images=7", "mode=screening", "fractions=[0.5]"]) == plan.model_copy(
        update={"images": 7, "mode": "screening", "fractions": [0.5]}
    )


TOY = """
import torch
from torch import nn

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 7, 1), nn.ReLU()
        self.shape, self.tint = nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, images):
        seen = self.relu(self.conv(images)).mean(dim=(2, 3))
        return {"tint": self.tint(seen), "shape": self.shape(seen)}

def network():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Toy()
"""


@pytest.fixture
def own(tmp_path: Path) -> UserModel:
    """A module, twelve pictures of 9x6 px and their labels, as files."""
    (tmp_path / "toy.py").write_text(TOY)
    generator, lines = np.random.default_rng(3), ["split,shape,image,tint,group"]
    (tmp_path / "pictures").mkdir()
    for number, (shape, tint) in enumerate([*CASES, *CASES]):
        pixels = generator.integers(256, size=(6, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
        lines.append(f"{'train' if number < 6 else 'test'},{shape},pictures/{number}.png,{tint},person {number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return UserModel(f"{tmp_path / 'toy.py'}:network", tmp_path / "labels.csv", ["conv"], 5)


def done(own: UserModel, to: Path, monkeypatch: pytest.MonkeyPatch, *, until: int = 99) -> int:
    """How many jobs a run did; it is stopped before job `until`."""
    jobs, real = [], sweep._done

    def counted(*of: object) -> object:
        if len(jobs) == until:
            raise RuntimeError("the power is gone")
        jobs.append(of)
        return real(*of)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "_done", counted)
        stage.run(own, make_plan(**QUICK), to=to, device="cpu", workers=1)
    return len(jobs)


def test_a_run_goes_on_where_it_was_stopped(own: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert done(own, tmp_path / "one", monkeypatch) == 4  # both tasks, shuffled classes, random units
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="the power is gone"):
        done(own, tmp_path / "two", monkeypatch, until=2)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"notes.txt", ".unfinished"}
    assert done(own, tmp_path / "two", monkeypatch) == 2
    assert {path.name for path in (tmp_path / "one").iterdir()} == FILES
    assert {path.name for path in (tmp_path / "two").iterdir()} == FILES | {"notes.txt"}
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    for name, schema in SCHEMAS.items():
        table = schema.read(tmp_path / "one" / f"{name}.csv")
        assert set(table["trained_on"]) == {"toy"} and set(table["source"]) == {"labels.csv"}
    assert set(SEGREGATION.read(tmp_path / "one" / "segregation.csv")["people"]) == {2}


def test_only_what_the_run_wrote_is_removed(own: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "to" / ".unfinished" / "thesis").mkdir(parents=True)
    (tmp_path / "to" / ".unfinished" / "chapter.tex").write_text("mine")
    with pytest.raises(RuntimeError, match="the power is gone"):
        done(own, tmp_path / "to", monkeypatch, until=2)
    assert done(own, tmp_path / "to", monkeypatch) == 2
    assert {path.name for path in (tmp_path / "to").iterdir()} == FILES | {".unfinished"}
    assert {path.name for path in (tmp_path / "to" / ".unfinished").iterdir()} == {"thesis", "chapter.tex"}


def test_links_to_directories_serve_as_directories(
    own: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole and of unfinished jobs, as on another disk; both links stay, and so do other files behind them."""
    for name in ("disk", "scratch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    (tmp_path / "to").symlink_to("disk")
    (tmp_path / "disk" / ".unfinished").symlink_to(tmp_path / "scratch")
    assert done(own, tmp_path / "to", monkeypatch) == 4
    assert {path.name for path in (tmp_path / "disk").iterdir()} == FILES | {"notes.txt", ".unfinished"}
    assert (tmp_path / "to").is_symlink() and (tmp_path / "disk" / ".unfinished").is_symlink()
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["notes.txt"]


HOSTILE = ["$$", "\\frac{50 %\n\t", "x" * 300, "_表情😀"]


@pytest.mark.parametrize("name", HOSTILE)
def test_tasks_of_any_name_reach_the_last_figure(
    own: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module, labels = tmp_path / "toy.py", own.labels
    table = pd.read_csv(labels).rename(columns={"shape": name})
    table.to_csv(labels, index=False)
    module.write_text(TOY.replace('"shape"', repr(name.strip())))
    assert done(own, tmp_path / "to", monkeypatch) == 4
    assert {path.name for path in (tmp_path / "to").iterdir()} == FILES
    assert set(LESIONS.read(tmp_path / "to" / "lesions.csv")["tested_on"]) == {"tint", name.strip()}


def repainted(directory: Path) -> None:
    Image.new("RGB", (9, 6), (1, 2, 3)).save(directory / "pictures" / "7.png")


def relabelled(directory: Path) -> None:
    table = directory / "labels.csv"
    table.write_text(table.read_text().replace("train,0,pictures/0.png,0", "train,0,pictures/0.png,1"))


def retrained(directory: Path) -> None:
    (directory / "toy.py").write_text(TOY.replace("manual_seed(5)", "manual_seed(51)"))


def rewired(directory: Path) -> None:
    """Other answers of the same weights."""
    (directory / "toy.py").write_text(TOY.replace("self.tint(seen)", "-self.tint(seen)"))


@pytest.mark.parametrize("change", [repainted, relabelled, retrained, rewired])
def test_other_images_labels_weights_and_wiring_begin_anew(
    own: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    with pytest.raises(RuntimeError):
        done(own, tmp_path / "to", monkeypatch, until=3)
    change(tmp_path)
    assert done(own, tmp_path / "to", monkeypatch) == 4


def test_labels_and_images_are_what_the_table_says(own: UserModel, tmp_path: Path) -> None:
    """Columns by name, blank lines and spaces aside; classes as pandas writes them beside empty ones."""
    lines = ["image, tint ,split,shape", "pictures/3.png,1,test,2.0", "", "pictures/1.png,0,train,"]
    lines.append(" pictures/8.png, ,test ,0")
    own.labels.write_text("\n".join(lines), encoding="utf-8-sig")
    train, test, people = read_labels(own.labels, size=11)
    assert people is None and train.tasks == test.tasks == ("tint", "shape")
    assert {task: classes.tolist() for task, classes in train.classes.items()} == {"tint": [0], "shape": [-1]}
    assert {task: classes.tolist() for task, classes in test.classes.items()} == {"tint": [1, -1], "shape": [2, 0]}
    images = test.images(np.array([1, 0, 1]))
    assert images.shape == (3, 3, 11, 11) and images.dtype == torch.float32
    stored = np.stack([np.asarray(Image.open(tmp_path / "pictures" / f"{number}.png")) for number in (8, 3, 8)])
    resized = nn.functional.interpolate(
        torch.from_numpy(stored).permute(0, 3, 1, 2).float(), (11, 11), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(images * 255, resized, atol=1, rtol=0)  # Pillow rounds along rows, then columns


@pytest.mark.parametrize("mode,colour,seen", [("L", 51, (0.2, 0.2, 0.2)), ("RGBA", (255, 102, 0, 7), (1.0, 0.4, 0.0))])
def test_any_mode_becomes_rgb(
    own: UserModel, tmp_path: Path, mode: str, colour: object, seen: tuple[float, ...]
) -> None:
    Image.new(mode, (4, 6), colour).save(tmp_path / "pictures" / "0.png")
    (image,) = read_labels(own.labels, size=3).train.images(np.array([0]))
    torch.testing.assert_close(image, torch.tensor(seen)[:, None, None].expand(3, 3, 3))


def test_a_module_is_loaded_without_being_importable(own: UserModel, tmp_path: Path) -> None:
    before = list(sys.path)
    first, second = load_network(own.module), load_network(own.module)
    assert sys.path == before and "toy" not in sys.modules
    assert list(first.state_dict()) == list(second.state_dict()) and type(first).__name__ == "Toy"


@pytest.mark.pipeline
def test_the_documented_example_runs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "docs" / "lesions.md").read_text()
    scripts = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.S))
    assert list(scripts) == ["stripes.py", "study.py"]
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (commands,) = re.findall(r"```console\n(.*?)```", text, re.S)
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        if program == "python":
            runpy.run_path(words[0], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", [program, *words])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code == 0
    assert capsys.readouterr().out == "results: five tables, figure_lesions and figure_lesion_classes.\n"
    assert {path.name for path in Path("results").iterdir()} == FILES
    tables = {name: schema.read(Path("results") / f"{name}.csv") for name, schema in SCHEMAS.items()}
    assert list(tables["segregation"]["layer"].unique()) == ["trunk.layer3.0.conv1", "trunk.layer4.1.conv1"]
    assert tables["lesions"]["drop"].notna().all() and (tables["lesions"]["drop"] > 0.5).any()
    assert set(tables["segregation"]["people"]) == {4}
    runpy.run_path("study.py", run_name="__main__")
    monkeypatch.delitem(sys.modules, "stripes")
    assert "trunk.layer3.0.conv1" in capsys.readouterr().out and Path("stripes.png").stat().st_size > 10_000


def test_every_option_of_the_command_is_documented(project: Path) -> None:
    documented = set(re.findall(r"^\| (`--[^|]+) \|", (project / "docs" / "lesions.md").read_text(), re.M))
    options = typer.main.get_command(cli.app).commands["lesions"].params
    assert set(re.findall("--[a-z]+", " ".join(documented))) == {option.opts[0] for option in options}
