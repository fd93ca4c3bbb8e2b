"""A bit that flips anywhere in a study is refused, changes nothing, or is computed again; it is never used.

Bits are drawn anew every day. A failure names the seed; FACESPEC_FLIPS=<seed> draws the same bits again.
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.stages import fitting, lesions, train
from facespec.stages.network_files import load_network
from facespec.study import arrays, tables, tables_battery, tables_calibration, tables_geometry, tables_lesions
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.preferred import PreferredSet
from facespec.study.schema import Schema
from facespec.study.vocabulary import NETWORKS, PAIRS, Network

SEED = int(os.environ.get("FACESPEC_FLIPS", f"{datetime.datetime.now(datetime.UTC):%Y%m%d}"))
FLIPS = 5  # per file and run; one of them among the first bytes, where headers are
HEADER = 300


def make_generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([SEED, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)]))


# --- what can be read from a study, as a digest: reader of a file's kind -> content ---


def digest_values(*values: Any) -> str:
    content = hashlib.sha256()
    for value in values:
        content.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return content.hexdigest()


def read_faces(paths: Paths, file: Path) -> str:
    role = file.parent.name
    faces = FaceSet.open(paths.faces(role), role=role)
    everyone = np.arange(len(faces))
    shown = faces.images(everyone), faces.regions(everyone)
    return digest_values(faces.header, faces.labels.to_csv(), *shown)


def read_checkpoint(paths: Paths, file: Path) -> str:
    network, seed = file.stem.split("-")
    own = load_network(paths, file.parent.name, network, int(seed))
    return digest_values(
        checkpoints.digest_tensors(own.network.state_dict()),
        own.origin,
        own.classes,
        own.preset,
        own.params,
        own.history,
        own.network.block,
    )


def read_heatmaps(paths: Paths, file: Path) -> str:
    maps = MapSet.open(paths.heatmaps)
    arrays = [maps.maps(*pair, seed) for pair in PAIRS for seed in maps.seeds]
    return digest_values(maps.header, maps.labels.to_csv(), maps.mean_face, *arrays)


def read_preferred(paths: Paths, file: Path) -> str:
    pictures = PreferredSet.open(paths.preferred)
    places = [(network, layer) for network in NETWORKS for layer in pictures.layers(network)]
    arrays = [read(*place) for place in places for read in (pictures.optimised, pictures.best)]
    return digest_values(pictures.header, *arrays)


SCHEMAS = {
    schema.name: schema
    for module in (tables, tables_battery, tables_geometry, tables_lesions)
    for schema in vars(module).values()
    if isinstance(schema, Schema)
} | {
    "decoding": tables.ACCURACY,
    "calibration_cues": tables_calibration.CUE_SWAPS,
    "calibration_baselines": tables_calibration.BASELINES,
    "calibration_confusions": tables_calibration.CONFUSIONS,
    "calibration_targets": tables_calibration.TARGETS,
    "depth_units": tables.UNITS,
    "depth_classes": tables.UNIT_CLASSES,
    "depth_shares": tables.UNIT_SHARES,
    "depth_decoding": tables.LAYER_DECODING,
}


def read_examples(paths: Paths, file: Path) -> str:
    description, examples = arrays.read_arrays(file, remedy="")
    return digest_values(description, *examples, *examples.values())


def read_table(paths: Paths, file: Path) -> str:
    table = file.with_name(file.name.removesuffix(".sha256"))
    return digest_values(SCHEMAS[table.stem].read(table).to_csv())


READERS: dict[str, Callable[[Paths, Path], str]] = {
    "data/*/*": read_faces,
    "checkpoints/*/*.safetensors": read_checkpoint,
    "Results/heatmaps/*": read_heatmaps,
    "Results/preferred/*": read_preferred,
    "Results/*.safetensors": read_examples,
    "Results/*.csv": read_table,
    "Results/*.csv.sha256": read_table,
}
NOT_OPENED = {  # by any stage, so that no damage to them can reach a result
    "checkpoints/*/*.csv": "curves for DVC's plots; the checkpoint holds the same numbers",
    "Results/*.pickle": "for the original study's cells and other programs",
    "Results/checks/verdicts.json": "a metric for DVC; stages and notebooks read verdicts.csv",
    "Results/checks/metrics.json": "numbers of verdicts.csv, for DVC",
    "*.lock": "empty",
}
KINDS = ("data/*/*", "checkpoints/*/*.safetensors", "Results/heatmaps/*", "Results/preferred/*", "Results/*.csv*")


def list_artefacts(paths: Paths) -> list[str]:
    """Every file that stages have written, as a path in the study: all but code and settings."""
    places = (paths.data, paths.root / "checkpoints", paths.results)
    return sorted(
        file.relative_to(paths.root).as_posix() for place in places for file in place.rglob("*") if file.is_file()
    )


def match_patterns(name: str, patterns: Any) -> list[str]:
    """The patterns that fit; ``*`` is any text within one name, but that of tables reaches into ``checks``."""
    depth = name.replace("Results/checks/", "Results/") if name.endswith((".csv", ".sha256")) else name
    return [
        pattern
        for pattern in patterns
        if fnmatch.fnmatchcase(depth, pattern) and (pattern.count("/") == depth.count("/") or "/" not in pattern)
    ]


@pytest.fixture(scope="module")
def study(analysed_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A copy, in which every test leaves all files as they were."""
    root = tmp_path_factory.mktemp("damage") / "study"
    shutil.copytree(analysed_study, root)
    return Paths(root)


def flip_bits(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """`content` with one bit changed, several times, and in words where that is."""
    random = make_generator(name)
    for flip in range(FLIPS):
        end = min(HEADER, len(content)) if flip == 0 else len(content)
        position, bit = int(random.integers(end)), int(random.integers(8))
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        yield f"FACESPEC_FLIPS={SEED}: bit {bit} of byte {position} of {name}", bytes(changed)


def test_every_kind_of_file_is_read_or_not_opened_for_a_reason(study: Paths) -> None:
    names = list_artefacts(study)
    kinds = {name: match_patterns(name, READERS) + match_patterns(name, NOT_OPENED) for name in names}
    assert {name: kinds[name] for name in names if len(kinds[name]) != 1} == {}, (
        "say in READERS how these files are read, or in NOT_OPENED why they are not"
    )
    found = {pattern for patterns in kinds.values() for pattern in patterns}
    assert found >= READERS.keys(), "the tiny study lacks a kind of file, which is then not tested"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused_or_changes_nothing(study: Paths, kind: str) -> None:
    names = [name for name in list_artefacts(study) if match_patterns(name, [kind]) and match_patterns(name, READERS)]
    wrong, refused = [], 0
    for name in names:
        file = study.root / name
        read, whole = READERS[match_patterns(name, READERS)[0]], file.read_bytes()
        before = read(study, file)
        for where, content in flip_bits(name, whole):
            file.write_bytes(content)
            try:
                if read(study, file) != before:
                    wrong.append(f"{where} is used")
            except StudyError as error:
                refused += 1
                if file.name not in str(error):
                    wrong.append(f"{where}: {error}")
            except Exception as error:
                wrong.append(f"{where}: {error!r}")
            file.write_bytes(whole)
        assert read(study, file) == before
    assert wrong == []
    assert refused > len(names)  # few bits are white space


class Killed(BaseException):
    """As if the process had ended."""


def kill(*_: Any, **__: Any) -> None:
    raise Killed


def test_a_fit_continued_from_a_damaged_state_ends_in_the_same_bytes(
    study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = read_params(study.params)
    made = study.checkpoint("train", "joint", 5)
    whole = made.read_bytes()
    state = study.progress("train", "joint", 5)

    def run() -> None:
        train.run(study, params, network=Network.JOINT, seed=5, device="cpu")

    with monkeypatch.context() as patch:
        patch.setattr(fitting.checkpoints, "save_checkpoint", kill)
        with pytest.raises(Killed):
            run()
    unharmed = state.read_bytes()
    for where, content in flip_bits("state", unharmed):
        state.write_bytes(content)
        made.unlink()
        run()
        assert made.read_bytes() == whole, where
    state.write_bytes(study.checkpoint("train", "identity", 6).read_bytes())  # whole, but no state
    run()
    assert made.read_bytes() == whole and not state.exists()


def test_a_sweep_continued_from_damaged_jobs_ends_in_the_same_bytes(
    study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, names = read_params(study.params), list(list_lesion_tables(study))
    whole = [file.read_bytes() for file in names]

    def run() -> None:
        lesions.run(study, params, device="cpu", workers=1)

    with monkeypatch.context() as patch:
        patch.setattr(lesions, "write_table", kill)
        with pytest.raises(Killed):
            run()
    places = []
    for number, job in enumerate(sorted(study.lesions.iterdir())):
        where, content = next(flip_bits(f"job {number}", job.read_bytes()))
        if number % 2:  # the others in their values
            where, content = list(flip_bits(f"job {number}", job.read_bytes()))[-1]
        job.write_bytes(content)
        places.append(where)
    assert len(places) > 10
    run()
    assert [file.read_bytes() for file in names] == whole, places
    assert not study.lesions.exists()


def list_lesion_tables(study: Paths) -> Iterator[Path]:
    for name in ("lesion_ranking", "lesions", "lesion_classes", "damage_curves", "dissociation", "segregation"):
        yield study.table(name)
