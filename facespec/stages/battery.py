"""What do manipulated faces cost each network: upside down, in halves, in parts, exaggerated, with one action unit?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax

from facespec.analyses.battery import EFFECTS, compute_effects, is_listed, list_measures, score_images
from facespec.analyses.calibration import mark_named, tabulate_shares
from facespec.analyses.pixels import measure_nearness
from facespec.data.embedded.battery import SHOWN_UNITS, BatteryFaces
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet
from facespec.data.splits import draw_images, encode_classes, hold_out
from facespec.models.checkpoints import Checkpoint
from facespec.models.device import deterministic_torch, pick_device
from facespec.responses.pixels import record_pixels
from facespec.responses.recording import record_logits
from facespec.stages.battery_faces import choose_examples, draw_battery, keep_battery
from facespec.stages.network_files import load_network
from facespec.stages.redrawing import explain_no_redrawing
from facespec.study.arrays import write_arrays
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import NEAREST
from facespec.study.tables_battery import BATTERY, BATTERY_EFFECTS, BATTERY_UNITS, CHOSEN
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, TASKS, Network, Role, Task

BATCH = 64
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Observer:
    """What looks at the pictures: `known` are the classes of a task, `evidence` (seeds, pictures, classes) for each."""

    trained_on: str
    task: Task
    seeds: list[int]
    known: tuple[str, ...]
    evidence: Floats


def run(paths: Paths, params: Params, *, device: str, workers: int) -> None:
    """Write ``Results/battery.csv``, ``battery_effects.csv``, ``battery_units.csv``, and examples of the pictures.

    Where the probe faces cannot be drawn again, tables have no numbers but the reason.
    """
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", Role.PROBE.value))
    reason = explain_no_redrawing(faces, np.arange(len(faces)), stimuli, params.data)
    if reason:
        tables, examples = list(_list_reasons(params, reason)), {}
    else:
        battery = draw_battery(stimuli, params.battery, params.data)
        with deterministic_torch(), keep_battery(battery, data=params.data, workers=workers) as pictures:
            examples = choose_examples(battery, pictures)
            observers = _observe(paths, params, faces, pictures, device=device)
            tables = [part for observer in observers for part in _tabulate(observer, battery, params)]
    for schema in (BATTERY, BATTERY_EFFECTS, BATTERY_UNITS):
        rows = [table for name, table in tables if name == schema.name]
        write_table(
            paths.table(schema.name), schema.check(pd.concat(rows, ignore_index=True).assign(source=faces.source))
        )
    write_arrays(paths.battery, {"source": faces.source, "reason": reason}, examples)


# --- observers ---


def _observe(paths: Paths, params: Params, faces: FaceSet, pictures: FaceSet, *, device: str) -> Iterator[Observer]:
    """The evidence of all networks, fine-tuned and untrained, and of the nearest pictures that these were fitted to."""
    for network in Network:
        stage = "untrained" if network is Network.UNTRAINED else "finetune"
        checkpoints = [load_network(paths, stage, network, seed) for seed in params.seeds]
        evidence = [_record_evidence(one, pictures, device=device) for one in checkpoints]
        for task in network.tasks:
            known = checkpoints[0].classes[task.value]
            yield Observer(network.value, task, params.seeds, known, np.stack([one[task] for one in evidence]))
    block = params.decoding
    fit, _ = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    stream = generator(block.seed, "pixels", "battery")
    fit = fit[draw_images(faces.labels.iloc[fit], block.pixel_images, stream)]
    fitted, shown = (
        record_pixels(one, rows, size=block.pixel_size, batch_size=BATCH)
        for one, rows in ((faces, fit), (pictures, np.arange(len(pictures))))
    )
    for task in TASKS:
        codes, known = encode_classes(faces.labels, task.value)
        yield Observer(NEAREST, task, [], known, measure_nearness(fitted, codes[fit], shown)[None])


def _record_evidence(checkpoint: Checkpoint, pictures: FaceSet, *, device: str) -> dict[Task, Floats]:
    """Log-probabilities of the classes of every task (pictures, classes)."""
    logits = record_logits(
        checkpoint.network,
        pictures,
        np.arange(len(pictures)),
        preset=checkpoint.preset,
        batch_size=BATCH,
        device=pick_device(device),
    )
    return {Task(task): log_softmax(values.astype(np.float64), axis=1) for task, values in logits.items()}


# --- tables ---


def _tabulate(observer: Observer, battery: BatteryFaces, params: Params) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of one observer: name of the table, rows."""
    keys = {"trained_on": observer.trained_on, "tested_on": observer.task.value}
    n = len(battery.manipulated)
    scores = [
        score_images(battery.manipulated, evidence[:n], task=observer.task, known=observer.known)
        for evidence in observer.evidence
    ]
    values, people = np.stack(scores), battery.stimuli.labels["identity"]
    measures, effects = _name_measures(observer.task, len(observer.known)), _name_effects(observer.task)
    for schema, array, names in (
        (BATTERY, values, measures),
        (BATTERY_EFFECTS, compute_effects(values, observer.task), effects),
    ):
        yield schema.name, _tabulate_shares(observer, array, names, people=people, params=params).assign(**keys)
    if observer.task is Task.EXPRESSION:
        answers = np.array(observer.known)[observer.evidence[:, n:].argmax(axis=2)]
        by_face = answers.reshape(len(answers), -1, len(SHOWN_UNITS))
        marked = [mark_named(by_face, np.array([name.value]), observer.known) for name in EXPRESSIONS]
        values = np.stack(marked, axis=-1).reshape(*by_face.shape[:2], -1)
        people = battery.neutrals.labels["identity"]
        table = _tabulate_shares(observer, values, _name_units(), people=people, params=params)
        yield BATTERY_UNITS.name, table.assign(trained_on=observer.trained_on)


def _tabulate_shares(
    observer: Observer, values: Floats, names: pd.DataFrame, *, people: pd.Series, params: Params
) -> pd.DataFrame:
    """Means of each column of `values` (seeds, n, columns), of which each has a row in `names`."""
    draws = generator(params.battery.seed, "battery", "draws")  # one for all: pairs their draws
    shares = tabulate_shares(values, seeds=observer.seeds, people=people, draws=params.battery.draws, generator=draws)
    return shares.join(names, on="column").drop(columns="column")


def _name_measures(task: Task, classes: int) -> pd.DataFrame:
    kinds = list_measures(task)
    chance = [0.5 if kind == CHOSEN else 1 / classes for kind in kinds.values()]
    return pd.DataFrame({"measure": list(kinds), "kind": list(kinds.values()), "chance": chance})


def _name_effects(task: Task) -> pd.DataFrame:
    columns = ("easy", "hard", "human", "reference")
    rows = [
        {"effect": effect.name} | {name: getattr(effect, name) for name in columns}
        for effect in EFFECTS
        if effect.task is task
    ]
    return pd.DataFrame(rows)


def _name_units() -> pd.DataFrame:
    rows = [
        {"unit": unit, "expression": name.value, "listed": "yes" if is_listed(unit, name) else "no"}
        for unit in SHOWN_UNITS
        for name in EXPRESSIONS
    ]
    return pd.DataFrame(rows)


def _list_reasons(params: Params, reason: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of a study whose faces cannot be manipulated: no numbers, and the reason."""
    none: dict[str, Any] = dict.fromkeys(("seed", "number", "low", "high"), np.nan)
    none |= {"seeds": len(params.seeds), "people": 0, "n": 0, "reason": reason}
    for network in NETWORKS:
        for task in network.tasks:
            keys = {"trained_on": network.value, "tested_on": task.value} | none
            yield BATTERY.name, _name_measures(task, len(EXPRESSIONS)).assign(**keys)
            yield BATTERY_EFFECTS.name, _name_effects(task).assign(**keys)
        if Task.EXPRESSION in network.tasks:
            yield BATTERY_UNITS.name, _name_units().assign(trained_on=network.value, **none)
