"""Write down what the quick study gives: digests of every output, and the numbers that they stand for.

    python .ci/golden.py runs/golden tests/golden/quick.json  # make golden

`tests/test_pipeline.py` compares: bit for bit on the portable code path, by the numbers elsewhere.
"""

from __future__ import annotations

from facespec.study.code_path import choose_code_path

choose_code_path()

import sys
from pathlib import Path
from typing import Any

import yaml

from facespec.stages.dvc_files import digest_below
from facespec.stages.repro import explain_other_bits, list_stages
from facespec.study.storage import write_json
from facespec.study.tables import ACCURACY, ALL_IMAGES

CELL = ["figure", "trained_on", "tested_on"]


def read_digests(study: Path) -> dict[str, dict[str, str]]:
    """Per stage, in the order of the pipeline: the digest of each output; faces come first, as ``data``.

    In a clone, the lock also has entries of a larger study, whose outputs are not there.
    """
    lock = yaml.safe_load((study / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    made = {
        name: {out["path"]: out["md5"] for out in stage["outs"] if (study / out["path"]).exists()}
        for name, stage in lock.items()
    }
    order = list_stages(study)
    others = [name for name in made if made[name] and name != "fingerprints" and not name.startswith("data@")]
    stages = sorted(others, key=lambda name: (order.index(name.split("@")[0]), name))
    faces = {f"data/{name}": digest for name, digest in digest_below(study / "data").items()}
    return {"data": faces, **{name: made[name] for name in stages}}


def read_accuracies(study: Path) -> dict[str, float]:
    """The accuracy of every cell of Figures 1 and S1, a mean over seeds."""
    accuracies: dict[str, float] = {}
    for name in ("decoding", "accuracy"):
        table = ACCURACY.read(study / "Results" / f"{name}.csv")
        cells = table[table["resample"] == ALL_IMAGES].groupby(CELL)["accuracy"].mean()
        accuracies |= {" ".join(cell): round(float(value), 6) for cell, value in cells.items()}
    return accuracies


def record(study: Path) -> dict[str, Any]:
    """All that is compared, as it goes into the golden file."""
    return {"outputs": read_digests(study), "accuracies": read_accuracies(study)}


if __name__ == "__main__":
    if reason := explain_other_bits():
        sys.exit(f"the golden study is recorded on the portable code path, on a CPU: {reason}.")
    source, to = map(Path, sys.argv[1:])
    write_json(to, record(source))
    print(f"{to}: written. See with `git diff` which stages' outputs are others, and say in the commit why.")
