"""The rooms stay apart: import directions, torch-free rooms, and a pipeline that declares what its code reads."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from facespec.study.fingerprints import fingerprint_stage

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "facespec"

# room -> rooms it may import besides itself and `study`
DOORS: dict[str, set[str]] = {
    "study": set(),
    "data": set(),
    "models": set(),
    "training": {"data", "models"},
    "responses": {"data", "models"},
    "analyses": {"data", "models", "responses"},
    "published": set(),
    "figures": {"published"},
    "checks": {"published"},
    "stages": {"data", "models", "training", "responses", "analyses", "published", "figures", "checks"},
}
TORCH_FREE = {"study", "figures", "checks", "published"}
TORCH_FREE_STAGES = ("overlap", "contrasts", "regions", "groundtruth", "export", "figures", "checks", "data")
FILES = sorted(PACKAGE.rglob("*.py"))
DISK = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "mkdir",
    "unlink",
    "to_csv",
    "read_csv",
    "savefig",
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "cli"


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Dotted names of every module that a file imports, inside functions too."""
    names: list[str] = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


@cache
def closure(path: Path) -> frozenset[Path]:
    """The package's files that running `path` can load, itself included; docstring-only `__init__` files aside."""
    found: set[Path] = set()
    ahead = [path]
    while ahead:
        file = ahead.pop()
        if file in found:
            continue
        found.add(file)
        for name in imported(file):
            if name.startswith("facespec."):
                stem = PROJECT.joinpath(*name.split("."))
                ahead += [c for c in (stem.with_suffix(".py"), stem / "__init__.py") if c.is_file()]
    return frozenset(
        f
        for f in found
        if any(isinstance(n, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign) for n in parse(f).body)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_flow_one_way(path: Path) -> None:
    here = room(path)
    if here == "cli":
        return
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("facespec.")}
    assert rooms - DOORS[here] - {here, "study"} == set()
    if here in TORCH_FREE:
        assert not any(name.split(".")[0] in ("torch", "torchvision") for name in imported(path))
        assert "safetensors.torch" not in imported(path), "safetensors.numpy does the same without torch"


def test_the_rooms_above_the_line_never_load_torch() -> None:
    """Not through others either: a figure can be drawn where torch is not installed."""
    for here in TORCH_FREE & {room(p) for p in FILES}:
        for path in (PACKAGE / here).rglob("*.py"):
            for file in closure(path):
                assert not any(name.split(".")[0] == "torch" for name in imported(file)), f"{path} loads {file}"


@pytest.mark.parametrize("name", TORCH_FREE_STAGES)
def test_stages_without_networks_never_load_torch(name: str) -> None:
    """It takes longer to load than they take to run; facespec loads it for networks and nothing else."""
    for file in closure(PACKAGE / "stages" / f"{name}.py"):
        assert not any(module.split(".")[0] in ("torch", "torchvision") for module in imported(file)), file


def test_analyses_stand_alone() -> None:
    for path in (PACKAGE / "analyses").glob("*.py"):
        others = {n.split(".")[2] for n in imported(path) if n.startswith("facespec.analyses.")}
        assert others <= {"resampling"}, path


def test_only_stages_open_generators_and_only_doors_touch_the_disk() -> None:
    for path in FILES:
        names = {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(parse(path))
            if isinstance(node, ast.Attribute | ast.Name)
        }
        if room(path) not in ("stages", "cli", "study"):
            assert not any(n.startswith("facespec.study.seeds") for n in imported(path)), f"{path} opens a generator"
            assert "default_rng" not in names, path
            assert not {"manual_seed_all", "RandomState"} & names, path
        if room(path) in ("analyses", "responses", "figures") and path.name not in ("style.py",):
            assert not DISK & names, f"{path} touches the disk: {DISK & names}"
        if room(path) not in ("stages", "cli", "study"):
            assert not any(n.startswith("facespec.study.paths") for n in imported(path)), f"{path} knows paths"


def test_no_operation_has_other_bits_on_other_makers_processors() -> None:
    """torch's square root of float32 has, and optimisers that take it have, too (docs/portability.md)."""
    for path in FILES:
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            of_tensor = called.endswith((".sqrt", ".sqrt_")) and not node.args  # np.sqrt and math.sqrt have an argument
            assert not of_tensor and called != "torch.sqrt", f"{path}:{node.lineno}: use rsqrt, or numpy's sqrt"
            if called.split(".")[-1].startswith(("Adam", "NAdam", "RAdam", "Adagrad", "RMSprop")):
                fused = any(word.arg == "fused" and ast.unparse(word.value) == "True" for word in node.keywords)
                assert fused, (
                    f"{path}:{node.lineno}: this optimiser takes square roots; use Adam or AdamW with fused=True"
                )


def stages() -> dict[str, dict]:
    pipeline = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))
    return pipeline["stages"]


def test_the_pipeline_lists_no_code() -> None:
    """Which code a stage runs is its fingerprint, of which DVC compares the stage's own entry."""
    text = (PROJECT / "dvc.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 250 and not re.search(r"facespec/\w+.*\.py", text)
    for name, stage in stages().items():
        files = [param for param in stage.get("params", []) if isinstance(param, dict)]
        if name != "fingerprints":
            assert files == [{"fingerprints.json": [name]}], f"{name}: add {{fingerprints.json: [{name}]}}"


def test_fingerprints_are_those_of_the_code() -> None:
    recorded = json.loads((PROJECT / "fingerprints.json").read_text(encoding="utf-8"))
    now = {name: fingerprint_stage(name) for name in stages() if name != "fingerprints"}
    changed = [name for name in now if recorded.get(name) != now[name]]
    assert recorded == now, f"the code of {', '.join(changed)} changed: run `facespec fingerprints` and commit its file"


@pytest.mark.parametrize("name", stages())
def test_a_stage_declares_the_parameters_it_reads(name: str) -> None:
    tree = parse(PACKAGE / "stages" / f"{name}.py")
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "params"
    }
    declared = {param.split(".")[0] for param in stages()[name].get("params", []) if isinstance(param, str)}
    assert declared == read, f"dvc.yaml and stages/{name}.py disagree about the parameters of {name}"


@pytest.mark.parametrize("name", stages())
def test_one_name_from_end_to_end(name: str) -> None:
    """stage = sub-command = module = test file."""
    stage = stages()[name]
    assert stage["cmd"].split()[:4] == ["python", "-m", "facespec", name]
    assert (PACKAGE / "stages" / f"{name}.py").is_file()
    assert (PROJECT / "tests" / "stages" / f"test_{name}.py").is_file()
    from facespec.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert name in commands | {group.name for group in app.registered_groups}


def test_no_room_for_leftovers() -> None:
    assert not [p for p in FILES if p.stem in ("utils", "helpers", "misc", "common")]


def test_no_host_of_a_package_index_and_no_path_of_a_machine_is_committed() -> None:
    words = ["p" + "ypi.org", "python" + "hosted.org", "/ro" + "ot/", "/ho" + "me/"]
    for name in (
        "requirements.lock",
        "pixi.toml",
        "pyproject.toml",
        "README.md",
        "Makefile",
        "dvc.yaml",
        "params.yaml",
    ):
        text = (PROJECT / name).read_text(encoding="utf-8")
        assert not [word for word in words if word in text], name
