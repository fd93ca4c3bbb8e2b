"""What are numbers about these faces about? Swapped cues, pixels and untrained networks, confusions, and targets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.analyses.calibration import (
    Measurement,
    judge_targets,
    list_targets,
    mark_named,
    measure_change,
    tabulate_shares,
)
from facespec.analyses.confusions import (
    bound_draws,
    count_confusions,
    find_lowest_recall,
    rank_confusion,
    resample_shares,
    tabulate_confusions,
)
from facespec.data.embedded.cues import PERSON_CUES, SESSION
from facespec.data.faceset import FaceSet
from facespec.data.splits import draw_balanced_subset, hold_out
from facespec.models.device import deterministic_torch
from facespec.stages.answers import (
    ACROSS,
    SPLITS,
    STUDY,
    Answers,
    ProbeImages,
    answer_network,
    answer_pixels,
    answer_untrained,
    name_classes,
)
from facespec.stages.network_files import load_network
from facespec.stages.redrawing import SwappedFaces, find_kind, swap_cues
from facespec.study.params import Calibrate, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import GROUNDTRUTH_OVERLAP, NEAREST, TRUTH_RULES, UNTRAINED
from facespec.study.tables_calibration import BASELINES, CONFUSIONS, CORRECT, CUE_SWAPS, DONOR, OWNER, TARGETS
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, TEST, Expression, Network, Role, Task

NONE = "none"  # the pictures as they are
# the whole face, its inner features, single cues; then what is not the person's
CUES = ("everything", "inner", *PERSON_CUES, "light", "background", SESSION)
BOUNDS = {"at_least": "at least", "at_most": "at most"}
PIXELS = 1 << 22  # of pictures compared at a time
Networks = Mapping[str, list[Answers]]  # the answers of every seed's network


def run(paths: Paths, params: Params, *, device: str, workers: int) -> None:
    """Write ``Results/calibration_{cues,baselines,confusions,targets}.csv``.

    Targets are judged by what the first three are made of, and by ``Results/groundtruth_overlap.csv`` if there is one.
    """
    block, faces = params.calibrate, FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    probe = ProbeImages(faces, *hold_out(faces.labels, params.split, generator(params.split.seed, "split")))
    rows = _choose_swapped_rows(probe, block)
    stream = generator(block.seed, "calibrate", "donors")
    with (
        deterministic_torch(),
        swap_cues(faces, rows, CUES, block=params.data, stream=stream, workers=workers) as swapped,
    ):
        networks = _answer_networks(paths, params, probe, swapped, device=device)
        cues = pd.concat(_tabulate_swaps(networks, probe, swapped, params), ignore_index=True)
        pixels = answer_pixels(probe, params.decoding, generator(params.decoding.seed, "pixels", "calibrate"))
        images = [*_test_roles(paths, params, device=device), *_collect_tested(networks, probe)]
    classifiers = {name: [answers] for name, answers in pixels.items()} | {UNTRAINED: networks[UNTRAINED]}
    baselines = pd.concat(_tabulate_baselines(classifiers, probe, params), ignore_index=True)
    confusions = pd.concat(_tabulate_matrices(images, params), ignore_index=True)
    measurements = {
        **_measure_tables(cues, baselines),
        **_measure_confusions(images, block),
        **_measure_accuracies(images, params),
        **_read_overlaps(paths, faces.source),
    }
    write_table(paths.table("calibration_cues"), CUE_SWAPS.check(cues))
    write_table(paths.table("calibration_baselines"), BASELINES.check(baselines))
    write_table(paths.table("calibration_confusions"), CONFUSIONS.check(confusions))
    write_table(paths.table("calibration_targets"), judge_targets(list_targets(block.targets), measurements))


def describe_targets(paths: Paths) -> list[str]:
    """A line per target of ``Results/calibration_targets.csv``: its number, its bounds, and whether it is met."""
    lines = []
    for row in TARGETS.read(paths.table("calibration_targets")).to_dict("records"):
        bounds = [f"{word} {row[name]:g}" for name, word in BOUNDS.items() if not np.isnan(row[name])]
        number = f"{row['number']:.3f} ({row['low']:.3f} to {row['high']:.3f})" if row["met"] else row["reason"]
        met = {"yes": "met", "no": "not met"}.get(row["met"], "unknown")
        lines.append(f"{met}: {row['statement']}: {number}; {', '.join(bounds)}")
    return lines


def _choose_swapped_rows(probe: ProbeImages, block: Calibrate) -> np.ndarray:
    """Held-out images, equally many of each person."""
    labels = probe.faces.labels.iloc[probe.test_rows]
    per_person = min(block.images, int(labels["identity"].value_counts().min()))
    stream = generator(block.seed, "calibrate", "images")
    return probe.test_rows[draw_balanced_subset(labels, "identity", per_person, stream)]


def _answer_networks(
    paths: Paths, params: Params, probe: ProbeImages, swapped: SwappedFaces, *, device: str
) -> Networks:
    """What the fine-tuned networks of all seeds name, and what is decoded from their trunks before training."""
    networks: dict[str, list[Answers]] = {name: [] for name in (*NETWORKS, UNTRAINED)}
    for seed in params.seeds:
        for network in NETWORKS:
            checkpoint = load_network(paths, "finetune", network, seed)
            networks[network].append(answer_network(checkpoint, probe, swapped, device=device))
        checkpoint = load_network(paths, "finetune", Network.EXPRESSION, seed)
        answers = answer_untrained(checkpoint, probe, swapped, block=params.decoding, device=device)
        networks[UNTRAINED].append(answers)
    return networks


# --- swapped cues ---


def _tabulate_swaps(
    networks: Networks, probe: ProbeImages, swapped: SwappedFaces, params: Params
) -> Iterator[pd.DataFrame]:
    """The CUE_SWAPS rows of every network and measure."""
    labels = probe.faces.labels.iloc[swapped.rows]
    names = {OWNER: labels["identity"], DONOR: pd.Series(swapped.donors), CORRECT: labels["expression"]}
    cues = (NONE, *swapped.cues)
    fixed = pd.DataFrame(
        {"cue": cues, "kind": [NONE, *map(find_kind, swapped.cues)], "changed": _compare(probe, swapped)}
    )
    for network, answers in networks.items():
        for task, known in answers[0].known.items():
            named = np.stack([one.swapped[task] for one in answers])  # (seeds, cues, n)
            for measure in (CORRECT,) if task is Task.EXPRESSION else (OWNER, DONOR):
                values = mark_named(named, names[measure].to_numpy(str), known)
                values[:, fixed["changed"].isna()] = np.nan
                table = tabulate_shares(
                    values.swapaxes(1, 2),
                    seeds=params.seeds,
                    people=labels["identity"],
                    draws=params.calibrate.draws,
                    generator=generator(params.calibrate.seed, "calibrate", "cues"),  # one for all: pairs their draws
                )
                table = table.join(fixed, on="column").drop(columns="column")
                if measure == DONOR:
                    table = table[~table["cue"].isin([NONE, SESSION])]  # nobody donates
                lacking = table["number"].isna()
                table.loc[lacking, "reason"] = swapped.reason or "the network has no class for any of these people"
                keys = {"trained_on": str(network), "tested_on": task.value, "measure": measure}
                yield table.assign(**keys, source=probe.faces.source, chance=1 / len(known))


def _compare(probe: ProbeImages, swapped: SwappedFaces) -> list[float]:
    """By how many grey levels each cue changes the pictures, on average; as they are: 0."""
    n, faces = len(swapped.rows), swapped.faces
    if faces is None:
        return [0.0, *(np.nan for _ in swapped.cues)]
    step = max(1, PIXELS // (faces.height * faces.width))
    changes = np.zeros((len(swapped.cues), n))
    for cue in range(len(swapped.cues)):
        for start in range(0, n, step):
            part = np.arange(start, min(start + step, n))
            originals = probe.faces.images(swapped.rows[part])
            changes[cue, part] = measure_change(originals, faces.images(cue * n + part))
    return [0.0, *changes.mean(axis=1)]


# --- pixels and untrained networks ---


def _tabulate_baselines(classifiers: Networks, probe: ProbeImages, params: Params) -> Iterator[pd.DataFrame]:
    """The BASELINES rows of every classifier, task and split."""
    for trained_on, answers in classifiers.items():
        for split, task in itertools.product(SPLITS, Task):
            rows = probe.split(split, task)
            labels = probe.faces.labels.iloc[rows.test]
            keys = {"trained_on": trained_on, "tested_on": task.value, "split": split, "source": probe.faces.source}
            if rows.reason:
                none = {
                    "seed": np.nan,
                    "seeds": 0,
                    "people": 0,
                    "n": 0,
                    "number": np.nan,
                    "low": np.nan,
                    "high": np.nan,
                }
                yield pd.DataFrame([keys | none | {"chance": 1 / max(len(rows.known), 1), "reason": rows.reason}])
                continue
            named = np.stack([one.tested[split, task] for one in answers])
            values = mark_named(named, labels[task.value].to_numpy(str), rows.known)
            table = tabulate_shares(
                values[:, :, None],
                seeds=params.seeds if trained_on == UNTRAINED else [],
                people=_name_people(labels),
                draws=params.calibrate.draws,
                generator=generator(params.calibrate.seed, "calibrate", "baselines", split),
            )
            yield table.drop(columns="column").assign(**keys, chance=1 / len(rows.known))


def _name_people(labels: pd.DataFrame) -> pd.Series:
    """Whom each image shows; where that is unknown, every image is its own person."""
    return labels["identity"].where(labels["identity"] != "", labels["stimulus"])


# --- confusions ---


@dataclass(frozen=True, eq=False)
class TestedImages:
    """What the networks of all seeds name on n images: `named` (seeds, n), where `labels[task]` is right.

    `role` is that of the images, before fine-tuning if it is a training role, and after it if it is the probe.
    """

    trained_on: str
    task: Task
    role: str
    source: str
    labels: pd.DataFrame
    known: tuple[str, ...]
    named: np.ndarray


def _test_roles(paths: Paths, params: Params, *, device: str) -> Iterator[TestedImages]:
    """The networks on the test images of their training role, before fine-tuning."""
    for task in Task:
        faces = FaceSet.open(paths.faces(task.value), role=task.value)
        rows = np.flatnonzero(faces.labels["split"] == TEST)
        joint = [Network.JOINT] if task is Task.EXPRESSION else []  # for its confusions
        for network in (Network(task.value), *joint):
            checkpoints = [load_network(paths, "train", network, seed) for seed in params.seeds]
            named = np.stack([name_classes(one, faces, rows, device=device)[task] for one in checkpoints])
            known, labels = checkpoints[0].classes[task.value], faces.labels.iloc[rows]
            yield TestedImages(network.value, task, task.value, faces.source, labels, known, named)


def _collect_tested(networks: Networks, probe: ProbeImages) -> Iterator[TestedImages]:
    """Every network's answers to the held-out probe images."""
    for network, answers in networks.items():
        for task, known in answers[0].known.items():
            rows = probe.split(STUDY, task).test if network == UNTRAINED else probe.test_rows
            named = np.stack([one.tested[STUDY, task] for one in answers])
            labels, source = probe.faces.labels.iloc[rows], probe.faces.source
            yield TestedImages(str(network), task, Role.PROBE.value, source, labels, known, named)


def _tabulate_matrices(images: Sequence[TestedImages], params: Params) -> Iterator[pd.DataFrame]:
    """The CONFUSIONS rows of every network that names expressions."""
    for tested in images:
        if tested.task is Task.EXPRESSION:
            table = tabulate_confusions(
                _count_confusions(tested),
                [name.value for name in EXPRESSIONS],
                seeds=params.seeds,
                draws=params.calibrate.draws,
                generator=generator(params.calibrate.seed, "calibrate", "confusions", tested.role),
            )
            yield table.assign(trained_on=tested.trained_on, role=tested.role, source=tested.source)


def _count_confusions(tested: TestedImages) -> np.ndarray:
    names = pd.Index([name.value for name in EXPRESSIONS])
    true, people = names.get_indexer(pd.Index(tested.labels[tested.task.value])), _name_people(tested.labels)
    predicted = [names.get_indexer(pd.Index(named)) for named in tested.named]
    return np.stack([count_confusions(true, codes, people, classes=len(names)) for codes in predicted])


# --- targets ---


def _measure_tables(cues: pd.DataFrame, baselines: pd.DataFrame) -> dict[str, Measurement]:
    """Targets that are means over networks in tables: who is named, and what pixels and untrained networks tell."""

    def read(table: pd.DataFrame, **values: str) -> Measurement:
        rows = table[table["seed"].isna() & (table[list(values)] == list(values.values())).all(axis=1)]
        return Measurement.from_row(rows.iloc[0].to_dict())

    owner = {"trained_on": Network.IDENTITY.value, "measure": OWNER}
    across = {"tested_on": Task.IDENTITY.value, "split": ACROSS}
    return {
        "inner_features": read(cues, cue="inner", **owner),
        "hair": read(cues, cue="hair", **owner),
        "pixels": read(baselines, trained_on=NEAREST, **across),
        "untrained": read(baselines, trained_on=UNTRAINED, **across),
    }


def _measure_confusions(images: Sequence[TestedImages], block: Calibrate) -> dict[str, Measurement]:
    """The expression network on its training role: rank of fear and surprise, and the lowest recall."""
    (tested,) = (one for one in images if one.trained_on == one.role == Task.EXPRESSION)
    counts = _count_confusions(tested)
    stream = generator(block.seed, "calibrate", "confusions", tested.role)
    shares, drawn = resample_shares(counts, draws=block.draws, generator=stream)
    pair = EXPRESSIONS.index(Expression.FEAR), EXPRESSIONS.index(Expression.SURPRISE)
    measurements = {}
    for name, number, draws in (
        ("fear_surprise", rank_confusion(shares, *pair), rank_confusion(drawn, *pair)),
        ("lowest_recall", find_lowest_recall(shares), find_lowest_recall(drawn)),
    ):
        low, high = bound_draws(draws, people=counts.shape[1])
        reason = "an expression has no test image" if np.isnan(number) else ""
        sizes = len(counts), len(tested.labels)
        measurements[name] = Measurement(tested.source, *sizes, float(number), float(low), float(high), reason)
    return measurements


def _measure_accuracies(images: Sequence[TestedImages], params: Params) -> dict[str, Measurement]:
    """Accuracy of the single-task networks, each on its own task, on both roles."""
    measurements = {}
    for tested in images:
        if tested.trained_on == tested.task:
            values = mark_named(tested.named, tested.labels[tested.task.value].to_numpy(str), tested.known)
            table = tabulate_shares(
                values[:, :, None],
                seeds=params.seeds,
                people=_name_people(tested.labels),
                draws=params.calibrate.draws,
                generator=generator(params.calibrate.seed, "calibrate", "accuracy", tested.role),
            )
            row: dict[Any, Any] = table.iloc[0].to_dict() | {"source": tested.source}
            row["reason"] = "no test image shows a class of the network" if np.isnan(row["number"]) else row["reason"]
            role = "probe" if tested.role == Role.PROBE else "training"
            measurements[f"{tested.task}_{role}"] = Measurement.from_row(row)
    return measurements


def _read_overlaps(paths: Paths, source: str) -> dict[str, Measurement]:
    """How far the pixels that carry the tasks are the same, by each rule; from the ground truth's own table."""
    path = paths.table("groundtruth_overlap")
    if not path.exists():
        reason = f"{path.name}: no such table; the stage groundtruth makes it"
        return {f"overlap_{rule}": Measurement(source, reason=reason) for rule in TRUTH_RULES}
    table = GROUNDTRUTH_OVERLAP.read(path)
    both = table[table["first_truth"] != table["second_truth"]].assign(seeds=0)
    rows = {rule: both[(both["first_rule"] == rule) & (both["second_rule"] == rule)].iloc[0] for rule in TRUTH_RULES}
    return {f"overlap_{rule}": Measurement.from_row(row.to_dict()) for rule, row in rows.items()}
