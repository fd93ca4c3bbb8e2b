"""At which depth do units answer to which task? Layer by layer, in the fine-tuned networks and before any training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from facespec.analyses.decoding import decode_classes
from facespec.analyses.depth import (
    BalancedDesign,
    LayerKey,
    classify_units,
    count_unit_classes,
    find_balanced_design,
    measure_unit_effects,
)
from facespec.analyses.similarity import compare_layers
from facespec.data.batches import Preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.layers import find_rectifier, list_convolutions
from facespec.models.networks import build_network
from facespec.responses.pooling import pool_responses
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.errors import StudyError
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator, integer_seed
from facespec.study.storage import write_table
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNTRAINED
from facespec.study.vocabulary import NETWORKS, TASKS, Role, View

BATCH = 64  # of VGG16 at 224 px, 64 images have 3.5 GB of responses in all layers

Responses = dict[str, np.ndarray]  # layer -> (n_images, n_units)


@dataclass(frozen=True, eq=False)
class DepthImages:
    """The frontal probe images at `rows`: their `design`, and on which (bool) decoders are fitted and tested."""

    faces: FaceSet
    rows: np.ndarray
    design: BalancedDesign
    fit: np.ndarray
    test: np.ndarray

    @property
    def labels(self) -> pd.DataFrame:
        """A row per image."""
        return self.faces.labels.iloc[self.rows].reset_index(drop=True)


class NetworkResponses(NamedTuple):
    """Who answered, and how deep each layer lies."""

    trained_on: str
    seed: int
    responses: Responses
    depths: dict[str, int]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/depth_{units,classes,shares,decoding}.csv`` and ``Results/similarity.csv``.

    A layer is a convolution, read behind its ReLU, each unit's map averaged. The trunk as it was before training, the
    same for all networks of a seed, is a control for units and decoding.
    """
    block = params.depth
    images = _images(FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params)
    units, decoding, everyone = [], [], []
    with deterministic_torch(), progress_bar() as bar:
        shown = bar.add_task("depth", total=len(params.seeds) * (len(NETWORKS) + 1), numbers="")
        for seen in _networks(paths, params, images, device=device):
            everyone.append(seen)
            for place, responses in _places(images, seen):
                stream = generator(block.seed, "permutations", place.trained_on, place.seed, place.layer)
                units.append(
                    measure_unit_effects(
                        responses,
                        images.design,
                        place,
                        rate=block.rate,
                        permutations=block.permutations,
                        generator=stream,
                    )
                )
                decoding += [_decoded(images, responses, place, task, params) for task in TASKS]
            bar.advance(shown)
        alike = pd.concat(_similarities(images, [seen for seen in everyone if seen.trained_on != UNTRAINED]))
    effects = pd.concat(units, ignore_index=True)
    classes = classify_units(effects, rate=block.rate, selectivity=block.selectivity)
    write_table(paths.table("depth_units"), effects)
    write_table(paths.table("depth_classes"), classes)
    write_table(paths.table("depth_shares"), count_unit_classes(classes))
    write_table(paths.table("depth_decoding"), LAYER_DECODING.check(pd.DataFrame(decoding)))
    write_table(paths.table("similarity"), SIMILARITY.check(alike))


def _images(faces: FaceSet, params: Params) -> DepthImages:
    """The frontal images; what fine-tuning held out is tested [O]."""
    rows = np.flatnonzero(faces.labels["view"] == View.STRAIGHT)
    if not len(rows):
        raise StudyError(
            f"{faces.directory}: no image shows the {View.STRAIGHT} view, which the analyses by depth look at. Use "
            "probe faces with that view."
        )
    fit, test = (np.isin(rows, own) for own in hold_out(faces.labels, params.split, _split(params)))
    if not fit.any() or not test.any():
        raise StudyError(
            f"{faces.directory}: of {len(rows)} frontal images, {fit.sum()} are to be fitted and {test.sum()} tested; "
            "at least one of each is needed. Choose another split.seed or split.hold_out in params.yaml."
        )
    return DepthImages(faces, rows, find_balanced_design(faces.labels.iloc[rows].reset_index(drop=True)), fit, test)


def _split(params: Params) -> np.random.Generator:
    return generator(params.split.seed, "split")  # as fine-tuning splits


def _networks(paths: Paths, params: Params, images: DepthImages, *, device: str) -> Iterator[NetworkResponses]:
    """What the networks of every seed answer to the images, the untrained trunk last."""
    for seed in params.seeds:
        for network in NETWORKS:
            checkpoint = load_network(paths, "finetune", network, seed)
            yield _seen(checkpoint, network.value, seed, images, device=device)
        yield _seen(_untrained(checkpoint, seed), UNTRAINED, seed, images, device=device)


def _untrained(checkpoint: checkpoints.Checkpoint, seed: int) -> checkpoints.Checkpoint:
    """The weights that training began with: the trunk of all networks of a seed, joint branches included."""
    draws = torch.Generator().manual_seed(integer_seed(seed, "train", "weights"))
    network = checkpoint.network
    fresh = build_network(network.block, network.classes, channels=network.channels, generator=draws)
    return replace(checkpoint, network=fresh)


def _seen(
    checkpoint: checkpoints.Checkpoint, trained_on: str, seed: int, images: DepthImages, *, device: str
) -> NetworkResponses:
    known = list_convolutions(checkpoint.network)
    depths = {find_rectifier(checkpoint.network, name): int(name.rsplit("conv", 1)[1]) for name in known}
    responses = pool_responses(
        checkpoint.network,
        images.faces,
        images.rows,
        depths,
        preset=Preset(**checkpoint.preset),
        batch_size=BATCH,
        device=pick_device(device),
    )
    return NetworkResponses(trained_on, seed, responses, depths)


def _places(images: DepthImages, seen: NetworkResponses) -> Iterator[tuple[LayerKey, np.ndarray]]:
    for layer, depth in seen.depths.items():
        place = LayerKey(seen.trained_on, images.faces.source, seen.seed, layer, depth)
        yield place, seen.responses[layer]


def _decoded(
    images: DepthImages, responses: np.ndarray, place: LayerKey, task: str, params: Params
) -> dict[str, object]:
    """The LAYER_DECODING row of one layer and task."""
    codes, names = encode_classes(images.labels, task)
    answers = decode_classes(
        responses[images.fit],
        codes[images.fit],
        responses[images.test],
        penalty=params.decoding.penalty,
        iterations=params.decoding.iterations,
    )
    accuracy = float((answers == codes[images.test]).mean())
    return {**vars(place), "tested_on": task, "n": len(answers), "chance": 1 / len(names), "accuracy": accuracy}


def _similarities(images: DepthImages, everyone: list[NetworkResponses]) -> Iterator[pd.DataFrame]:
    """SIMILARITY rows of all networks of one seed, and of all seeds of one network."""
    for first, second in combinations(everyone, 2):
        if (first.seed == second.seed) != (first.trained_on == second.trained_on):
            yield compare_layers(first.responses, _paired(first, second), first.depths).assign(
                first_trained_on=first.trained_on,
                first_seed=first.seed,
                second_trained_on=second.trained_on,
                second_seed=second.seed,
                source=images.faces.source,
            )


def _paired(first: NetworkResponses, second: NetworkResponses) -> Responses:
    """What `second` answers, under the layer names of `first`: the same layer, or the one as deep in its own branch."""
    as_deep = {depth: layer for layer, depth in second.depths.items()}
    return {
        layer: second.responses[layer if layer in second.depths else as_deep[depth]]
        for layer, depth in first.depths.items()
    }
