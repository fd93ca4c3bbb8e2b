"""Which share of a stage's time is spent on checking digests?

    facespec init DIR --profile quick && facespec repro DIR
    python benchmarks/opening.py DIR

Every stage of the finished study DIR runs once more in a copy of the study, one after the other, each in a new
process; training and fine-tuning only for the first seed. In that process every function that computes or compares a
digest of an input is timed. Prints Markdown.
"""

from __future__ import annotations

from facespec.study.code_path import choose_code_path

choose_code_path()

import argparse
import functools
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.vocabulary import NETWORKS

TARGET = 0.02
FITS = ("train", "finetune")
ANALYSES = (
    "decoding",
    "accuracy",
    "heatmaps",
    "overlap",
    "contrasts",
    "regions",
    "groundtruth",
    "calibrate",
    "battery",
    "depth",
    "preferred",
    "lesions",
    "export",
    "figures",
    "checks",
)
WITH_WORKERS = ("groundtruth", "calibrate", "battery", "lesions")  # one worker: times of parallel workers do not add up
KINDS = ("files", "documents", "arrays", "rows", "tables")


class Stopwatch:
    """Seconds spent in functions, by kind."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._running = False

    def time(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function` so that its time counts; inside another timed function it counts only for the outer one."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._running:
                return function(*arguments, **options)
            self._running, begin = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[kind] += time.perf_counter() - begin
                self._running = False

        return timed


def replace_function(module: str, name: str, change: Callable[[Any], Any]) -> None:
    """Replace a function in the module that defines it and in all of the package that have imported it."""
    original = getattr(importlib.import_module(module), name)
    replacement = change(original)
    for imported in [module_ for key, module_ in sys.modules.items() if key.split(".")[0] == "facespec"]:
        if vars(imported).get(name) is original:
            setattr(imported, name, replacement)


def time_checks(watch: Stopwatch) -> None:
    """Time every check of a digest; for arrays, computing the digest when they are written is timed, too."""
    shards, schema = importlib.import_module("facespec.data.shards"), importlib.import_module("facespec.study.schema")
    replace_function("facespec.study.artefacts", "check_file", functools.partial(watch.time, "files"))
    replace_function("facespec.study.artefacts", "read_document", functools.partial(watch.time, "documents"))
    arrays = importlib.import_module("facespec.study.arrays")
    arrays._compute_digest = watch.time("arrays", arrays._compute_digest)
    shards.ShardReader._check_rows = watch.time("rows", shards.ShardReader._check_rows)
    schema.hashlib = SimpleNamespace(sha256=watch.time("tables", schema.hashlib.sha256))


def run_stage(words: Sequence[str]) -> dict[str, Any]:
    """Run the command `words` in this process; return its seconds without imports and the seconds of checks by kind."""
    from facespec import cli

    importlib.import_module(f"facespec.stages.{words[0]}")
    watch = Stopwatch()
    time_checks(watch)
    begin = time.perf_counter()
    cli.app(list(words), standalone_mode=False)
    return {"stage": time.perf_counter() - begin, "checks": watch.seconds}


def measure(study: Path, words: Sequence[str]) -> dict[str, Any]:
    """Call `run_stage` in a new process in the directory `study`; add the seconds of that process."""
    begin = time.perf_counter()
    completed = subprocess.run(
        [sys.executable, __file__, "--run", *words], cwd=study, check=True, stdout=subprocess.PIPE, text=True
    )
    return {"process": time.perf_counter() - begin, **json.loads(completed.stdout.splitlines()[-1])}


def list_commands(study: Path) -> list[list[str]]:
    seed = str(read_params(Paths(study).params).seeds[0])
    fits = [[stage, network.value, seed] for stage in FITS for network in NETWORKS]
    fits.append(["untrained", seed])
    return fits + [[stage, *(["--workers", "1"] if stage in WITH_WORKERS else [])] for stage in ANALYSES]


def format_row(name: str, times: dict[str, Any]) -> str:
    total, process, stage = sum(times["checks"].values()), times["process"], times["stage"]
    parts = " | ".join(f"{1000 * times['checks'][kind]:.1f}" for kind in KINDS)
    return f"| {name} | {process:.2f} | {stage:.2f} | {parts} | {total / process:.2%} | {total / stage:.2%} |"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a finished study")
    parser.add_argument("--stages", nargs="+", choices=(*FITS, *ANALYSES), default=(*FITS, *ANALYSES))
    options = parser.parse_args(words)
    columns = [
        "stage",
        "process, s",
        "without imports, s",
        *(f"{kind}, ms" for kind in KINDS),
        "share of the process",
        "share without imports",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    largest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        study = Path(scratch) / "study"
        shutil.copytree(options.study, study, ignore=shutil.ignore_patterns(".dvc", "__pycache__"))
        for command in list_commands(study):
            if command[0] in options.stages:
                times = measure(study, command)
                largest = max(largest, sum(times["checks"].values()) / times["process"])
                name = " ".join(word for word in command if word not in ("--workers", "1"))
                print(format_row(name, times), flush=True)
    print(f"\nLargest share of a process: {largest:.2%}; target: below {TARGET:.0%}.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run_stage(sys.argv[2:])))
    else:
        main()
