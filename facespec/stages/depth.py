"""At which depth do units respond to which task? Layer by layer, in the fine-tuned networks and before any training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from facespec.analyses.decoding import decode_classes
from facespec.analyses.depth import (
    BalancedDesign,
    LayerKey,
    classify_units,
    count_unit_classes,
    find_balanced_design,
    measure_unit_effects,
)
from facespec.analyses.geometry import divide_people, measure_geometry
from facespec.analyses.resampling import compute_chance
from facespec.analyses.similarity import compare_layers
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.layers import list_layers
from facespec.responses.pooling import pool_responses
from facespec.stages.network_files import load_network, undo_training
from facespec.stages.progress import progress_bar
from facespec.study.errors import StudyError
from facespec.study.params import Decoding, Params, Split
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import LAYER_DECODING, SIMILARITY, UNTRAINED
from facespec.study.vocabulary import NETWORKS, TASKS, Role, View

BATCH = 64  # of VGG16 at 224 px, 64 images have 3.5 GB of responses in all layers


@dataclass(frozen=True, eq=False)
class DepthImages:
    """The n frontal probe images at `rows` of `faces`, and a row of `labels` for each.

    Decoders are fitted where `fit_mask`, bool (n,), is true, and tested where `test_mask` is.
    """

    faces: FaceSet
    rows: np.ndarray
    labels: pd.DataFrame
    design: BalancedDesign
    fit_mask: np.ndarray
    test_mask: np.ndarray


class NetworkResponses(NamedTuple):
    """Mean responses (n, units) of one network by layer, and each layer's depth, 1 for the shallowest."""

    trained_on: str
    seed: int
    responses: dict[str, np.ndarray]
    depths: dict[str, int]


def run(paths: Paths, params: Params, *, device: str) -> None:
    """Write ``Results/depth_{units,classes,shares,decoding,geometry}.csv`` and ``Results/similarity.csv``.

    A layer is a convolution, read behind its ReLU, each unit's map averaged. The trunk as it was before training, the
    same for all networks of a seed, is a control for units, decoding and geometry.
    """
    block = params.depth
    images = _choose_images(FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), params.split)
    units, decoding, geometry, networks = [], [], [], []
    people, *images_each = images.design.rows.shape
    divisions = divide_people(
        people, math.prod(images_each), draws=block.resamples, generator=generator(block.seed, "geometry")
    )
    with deterministic_torch(), progress_bar() as bar:
        bar_task = bar.add_task("depth", total=len(params.seeds) * (len(NETWORKS) + 1), numbers="")
        for network in _record_networks(paths, params.seeds, images, device=device):
            networks.append(network)
            for layer, depth in network.depths.items():
                responses = network.responses[layer]
                key = LayerKey(network.trained_on, images.faces.source, network.seed, layer, depth)
                stream = generator(block.seed, "permutations", key.trained_on, key.seed, key.layer)
                units.append(
                    measure_unit_effects(
                        responses,
                        images.design,
                        key,
                        rate=block.rate,
                        permutations=block.permutations,
                        generator=stream,
                    )
                )
                geometry.append(measure_geometry(responses[images.design.rows], divisions, vars(key)))
                decoding += [_decode_layer(images, responses, key, task, params.decoding) for task in TASKS]
            bar.advance(bar_task)
        similarity = pd.concat(_compare_networks([n for n in networks if n.trained_on != UNTRAINED]))
    effects = pd.concat(units, ignore_index=True)
    classes = classify_units(effects, rate=block.rate, selectivity=block.selectivity)
    write_table(paths.table("depth_units"), effects)
    write_table(paths.table("depth_classes"), classes)
    write_table(paths.table("depth_shares"), count_unit_classes(classes))
    write_table(paths.table("depth_decoding"), LAYER_DECODING.check(pd.DataFrame(decoding)))
    write_table(paths.table("depth_geometry"), pd.concat(geometry, ignore_index=True))
    write_table(paths.table("similarity"), SIMILARITY.check(similarity.assign(source=images.faces.source)))


def _choose_images(faces: FaceSet, split: Split) -> DepthImages:
    """The frontal images; decoders are tested on those that fine-tuning held out [O]."""
    rows = np.flatnonzero(faces.labels["view"] == View.STRAIGHT)
    if not len(rows):
        raise StudyError(
            f"{faces.directory}: no image shows the {View.STRAIGHT} view, which the analyses by depth look at. Use "
            "probe faces with that view."
        )
    fit, test = (np.isin(rows, part) for part in hold_out(faces.labels, split, generator(split.seed, "split")))
    if not fit.any() or not test.any():
        raise StudyError(
            f"{faces.directory}: of {len(rows)} frontal images, {fit.sum()} are to be fitted and {test.sum()} tested; "
            "at least one of each is needed. Choose another split.seed or split.hold_out in params.yaml."
        )
    labels = faces.labels.iloc[rows].reset_index(drop=True)
    return DepthImages(faces, rows, labels, find_balanced_design(labels), fit, test)


def _record_networks(paths: Paths, seeds: list[int], images: DepthImages, *, device: str) -> Iterator[NetworkResponses]:
    """The responses of the networks of every seed, the untrained trunk last."""
    for seed in seeds:
        for network in NETWORKS:
            checkpoint = load_network(paths, "finetune", network, seed)
            yield _record_network(checkpoint, network.value, images, device=device)
        yield _record_network(undo_training(checkpoint), UNTRAINED, images, device=device)


def _record_network(
    checkpoint: checkpoints.Checkpoint, trained_on: str, images: DepthImages, *, device: str
) -> NetworkResponses:
    network = checkpoint.network
    depths = {layer.response: layer.depth for layer in list_layers(network)}
    responses = pool_responses(
        network,
        images.faces,
        images.rows,
        depths,
        preset=checkpoint.preset,
        batch_size=BATCH,
        device=pick_device(device),
    )
    return NetworkResponses(trained_on, checkpoint.origin.seed, responses, depths)


def _decode_layer(
    images: DepthImages, responses: np.ndarray, key: LayerKey, task: str, block: Decoding
) -> dict[str, object]:
    """The LAYER_DECODING row of one layer and task."""
    codes, _ = encode_classes(images.labels, task)
    fit, test = images.fit_mask, images.test_mask
    predicted = decode_classes(
        responses[fit], codes[fit], responses[test], penalty=block.penalty, iterations=block.iterations
    )
    chance, accuracy = compute_chance(codes[test]), float((predicted == codes[test]).mean())
    return {**vars(key), "tested_on": task, "n": len(predicted), "chance": chance, "accuracy": accuracy}


def _compare_networks(networks: list[NetworkResponses]) -> Iterator[pd.DataFrame]:
    """SIMILARITY rows of all networks of one seed, and of all seeds of one network."""
    for first, second in combinations(networks, 2):
        if (first.seed == second.seed) != (first.trained_on == second.trained_on):
            yield compare_layers(first.responses, match_layers(first, second), first.depths).assign(
                first_trained_on=first.trained_on,
                first_seed=first.seed,
                second_trained_on=second.trained_on,
                second_seed=second.seed,
            )


def match_layers(first: NetworkResponses, second: NetworkResponses) -> dict[str, np.ndarray]:
    """Responses of `second` under the layer names of `first`: the same layer, or the one as deep in another branch."""
    by_depth = {depth: layer for layer, depth in second.depths.items()}
    return {
        layer: second.responses[layer if layer in second.depths else by_depth[depth]]
        for layer, depth in first.depths.items()
    }
