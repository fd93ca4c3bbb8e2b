"""From faces to verdicts in one call: build the faces if needed, run the pipeline, say what came out."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from facespec.checks import verdicts
from facespec.checks.sharing import summarise_sharing
from facespec.stages import data, verify
from facespec.stages.dvc_files import LOCK, check_lock, list_outputs, read_lock, read_pipeline
from facespec.stages.dvc_runs import announce_stop, await_earlier_runs, reproduce
from facespec.stages.faces_check import check_faces
from facespec.stages.grid_pipeline import count_fits, is_grid, write_grid_pipeline
from facespec.stages.recovery import keep_lock, recover_state
from facespec.stages.study_directory import check_path
from facespec.stages.trunk_check import check_trunk
from facespec.study.code_path import get_code_path
from facespec.study.documents import parse_mapping, read_json
from facespec.study.errors import StudyError
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.storage import file_lock, remove_leftovers, write_bytes
from facespec.study.tables import VERDICTS
from facespec.study.tables_sharing import SHARING
from facespec.study.vocabulary import NETWORKS, ROLES

OTHER_BITS = "other_bits.txt"  # why a run here had other bits than those that are recorded
DIFFERENT = 3  # exit status of a finished run whose results are not those of the recorded one
VERDICTS_JSON = "Results/checks/verdicts.json"
FINGERPRINTS_FILE = Paths().fingerprints.name
FIRST = ["fingerprints", *(f"data@{role.value}" for role in ROLES)]
# Analyses of which none needs another line's results, and what they cost [measured, default profile: 10 s of one core].
# What is not here needs most of these: plain `dvc repro` runs it last.
ANALYSES = {
    ("decoding",): 6,
    ("accuracy",): 2,
    ("heatmaps", "groundtruth", "overlap", "contrasts", "regions", "calibrate"): 21,
    ("battery",): 5,
    ("depth",): 4,
    ("preferred",): 11,
    ("lesions",): 24,
}
Lines = Mapping[tuple[str, ...], int]  # targets that are run one after the other -> what they cost


def run(paths: Paths, *, workers: int, console: Console | None = None) -> int:
    """Build, run, report. Finished stages are kept when a later one stops; run again to continue.

    Returns the exit status: 0, or `DIFFERENT` where the results are not those of the recorded run (see `compare_runs`).
    """
    console = console or _make_console()
    report = partial(console.print, soft_wrap=True, markup=False)  # paths hold anything
    check_path(paths.root)
    params, grid = read_params(paths.params), is_grid(paths.root)
    check_trunk(params)
    reason = explain_other_bits()
    console.print(
        f"code path: {get_code_path().name}" + (f"; other bits than recorded are expected: {reason}" if reason else "")
    )
    reason = _recall_reason(paths.state / OTHER_BITS, reason)
    with file_lock(paths.state / "repro"), announce_stop():
        await_earlier_runs(paths.root)
        remove_leftovers(paths.root)
        recover_state(paths, report)
        recorded = _read_recorded(paths.root)
        with file_lock(paths.data):
            data.build_missing(paths, params.data, workers=workers, report=report)
        check_faces(paths, params, report=report)
        verify.prepare(paths.root, report)
        if grid:
            write_grid_pipeline(paths, params)  # the parameters may have changed
        try:
            reproduce(paths.root, [FIRST], workers=workers)
            if grid:
                reproduce(paths.root, share_lines(count_fits(params), workers, in_order=True), workers=workers)
            else:
                for lines in (count_networks(params.seeds), ANALYSES):
                    reproduce(paths.root, share_lines(lines, workers), workers=workers)
            reproduce(paths.root, [[]], workers=workers)
        finally:
            keep_lock(paths)
    if grid:
        console.print(summarise_sharing(SHARING.read(paths.table("sharing"))))
    else:
        console.print(verdicts.summarise(VERDICTS.read(paths.verdicts.with_suffix(".csv"))))
    for figure in sorted(paths.figure("x", "png").parent.glob("*.png")):
        report(f"figure  {figure}")
    differences, _ = verify.run(paths)  # the last line is about files, not about DVC's notes
    if differences:
        report("\n".join([*differences, f"The files are not what {LOCK} records, although just made."]))
        return DIFFERENT
    now = _read_current(paths.root)
    line, status = compare_runs(recorded, now, order=list_stages(paths.root), reason=reason)
    report(line)
    if recorded["lock"] and _digest_outputs(recorded["lock"]) == _digest_outputs(now["lock"]):
        (paths.state / OTHER_BITS).unlink(missing_ok=True)
    return status


def _recall_reason(file: Path, reason: str) -> str:
    """`reason`, or that of an earlier run whose outputs may still be here: to DVC nothing about them has changed."""
    if reason:
        write_bytes(file, reason.encode())
    elif file.is_file():
        return (
            f"outputs of an earlier run are kept ({file.read_text(encoding='utf-8')}; "
            "remove checkpoints/, Results/ and .dvc/cache/ to make them anew)"
        )
    return reason


def explain_other_bits() -> str:
    """Why the networks of this run may have other bits than those of the recorded run; empty where they may not."""
    device = os.environ.get("FACESPEC_DEVICE", "auto")
    if device != "cpu":
        from facespec.models.device import pick_device  # torch takes seconds to load

        if pick_device(device).type != "cpu":
            return "networks run on a GPU"
    return get_code_path().reason


def _make_console() -> Console:
    console = Console(highlight=False)
    # a log file has no width of its own, and tables are unreadable in the 80 columns that are assumed for it
    return console if console.is_terminal else Console(highlight=False, width=120)


def count_networks(seeds: Iterable[int]) -> Lines:
    """Every network is trained and fine-tuned, in a time by its tasks; an untrained one takes a third of one task's."""
    untrained = {(f"untrained@{seed}",): 1 for seed in seeds}
    return untrained | {
        tuple(f"{stage}@{network.value}-{seed}" for stage in ("train", "finetune")): 3 * len(network.tasks)
        for network, seed in itertools.product(NETWORKS, seeds)
    }


def share_lines(lines: Lines, workers: int, *, in_order: bool = False) -> list[list[str]]:
    """Targets for at most `workers` concurrent runs of DVC, the work shared evenly: the longest line first.

    With `in_order`, lines keep their order, so that a run that is stopped has done the first ones.
    """
    shares: list[list[str]] = [[] for _ in range(min(workers, len(lines)))]
    load = [0] * len(shares)
    for line, cost in sorted(lines.items(), key=lambda each: 0 if in_order else -each[1]):
        lightest = load.index(min(load))
        shares[lightest] += line
        load[lightest] += cost
    return shares


def compare_runs(
    recorded: dict[str, Any], now: dict[str, Any], *, order: Sequence[str], reason: str
) -> tuple[str, int]:
    """Are the outputs those of the recorded run, bit for bit? If not, may they differ, and how far are they off?

    Parameters
    ----------
    recorded, now : dict
        Each holds ``lock`` (content of dvc.lock) and ``verdicts`` (content of verdicts.json).
    order : sequence of str
        The stages of the pipeline, in the order in which they run.
    reason : str
        Why this run may have other bits; empty where it may not.

    Returns
    -------
    line : str
        One paragraph for the user.
    status : int
        0 where all is as promised: equal bits, or numbers within the recorded intervals where the bits may differ.
        `DIFFERENT` otherwise. 0 too where there is nothing to compare with.
    """
    if not recorded["lock"]:
        return "No recorded run to compare with: there was no dvc.lock.", 0
    before, after = _digest_outputs(recorded["lock"]), _digest_outputs(now["lock"])
    stages, parameters = _read_parameters(recorded["lock"]), _read_parameters(now["lock"])
    if stages.items() < parameters.items() and before.items() <= after.items():
        return (
            f"The earlier run here had ended after {len(stages)} of {len(parameters)} stages; this one kept their "
            f"{len(before)} outputs and made the others: there is nothing to compare with.",
            0,
        )
    if before.keys() != after.keys() or stages != parameters:
        return "Not comparable with the recorded run: its parameters or stages are others.", 0
    changed = _list_changed_code(recorded["lock"], now["lock"])
    differing = [out for out, digest in before.items() if after[out] != digest]
    if any(stage.startswith("data@") and stage not in changed for stage, _ in differing):
        return "Not comparable with the recorded run: its faces are others.", 0
    if not differing:
        return f"All {len(before)} outputs are bit-identical to dvc.lock.", 0
    first = min((stage for stage, _ in differing), key=lambda stage: order.index(stage.split("@")[0]))
    outside = [
        f"{name}: {number:+.3f}, recorded {low:+.3f} to {high:+.3f}"
        for name, number, low, high in _list_numbers(recorded["verdicts"], now["verdicts"])
        if not low <= number <= high
    ]
    within = f"outside the recorded intervals: {'; '.join(outside)}" if outside else "within the recorded intervals"
    return (
        f"{len(differing)} of {len(before)} outputs differ from dvc.lock, those of `{first}` first. "
        f"{_explain_difference(changed, reason)}. The claims' numbers are {within}."
    ), DIFFERENT if outside or not reason else 0


def _explain_difference(changed: list[str], reason: str) -> str:
    """Why outputs differ, as a sentence: a known `reason`, or that the code of stages `changed`, or what is left."""
    if reason:
        return f"That is to be expected, because {reason}; networks then differ as those of other seeds do"
    if changed:
        more = f" and {len(changed) - 1} more stages" if changed[1:] else ""
        return f"The code is not the recorded one: that of `{changed[0]}`{more}"
    return (
        "This run is on the portable code path, where the same code, faces and versions of libraries "
        "(requirements.lock) give the same bits: libraries are others, or facespec has a fault"
    )


def _digest_outputs(lock: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Stage and path of every output -> its digest."""
    return {(out.stage, out.path): out.md5 for out in list_outputs(lock)}


def list_stages(root: Path) -> list[str]:
    """The stages of the pipeline, in the order in which they run."""
    return list(read_pipeline(root))


def _list_changed_code(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The stages of both runs whose code has another fingerprint."""
    codes = [
        {name: stage.get("params", {}).get(FINGERPRINTS_FILE) for name, stage in lock["stages"].items()}
        for lock in (recorded, now)
    ]
    return [name for name in codes[0] if name in codes[1] and codes[0][name] != codes[1][name]]


def _read_parameters(lock: dict[str, Any]) -> dict[str, Any]:
    return {name: stage.get("params", {}).get("params.yaml") for name, stage in lock["stages"].items()}


def _list_numbers(recorded: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    for claim, entry in recorded.items():
        for part, then in entry["parts"].items():
            now_part = now.get(claim, {}).get("parts", {}).get(part, {})
            if "number" in now_part and "low" in then:
                yield f"{claim} ({part})", now_part["number"], then["low"], then["high"]


def _read_recorded(root: Path) -> dict[str, Any]:
    """The run recorded in git's HEAD where the study is a clone, else the run that was last made here."""
    committed = {name: _read_committed(root, name) for name in (LOCK, VERDICTS_JSON)}
    if committed[LOCK] is None:
        return _read_current(root)
    content = {name: parse_mapping(text or "{}", name=f"{name} of git's HEAD") for name, text in committed.items()}
    check_lock(content[LOCK], Path(f"{LOCK} of git's HEAD"))
    return {"lock": content[LOCK], "verdicts": content[VERDICTS_JSON]}


def _read_committed(root: Path, name: str) -> str | None:
    try:
        output = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return output.stdout.decode(errors="replace") if output.returncode == 0 else None


def _read_current(root: Path) -> dict[str, Any]:
    try:
        judged = read_json(root / VERDICTS_JSON)
    except StudyError:  # absent, or damaged: it is made again
        judged = {}
    return {"lock": read_lock(root), "verdicts": judged}
