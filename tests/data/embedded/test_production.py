"""Many faces: refusals, order, bounded memory, and worker processes that end."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from facespec.data.embedded import production
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.production import describe_stimuli, import_embedded, iterate_chunks, render
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.errors import StudyError
from facespec.study.params import Data, ExpressionFaces, IdentityFaces, ProbeFaces
from facespec.study.seeds import generator
from facespec.study.vocabulary import Role


@cache
def stimuli() -> Stimuli:
    block = Data(
        seed=2,
        size=32,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(source="embedded", train=50, test=11),
        identity=IdentityFaces(source="embedded", people=2, train=1, test=1),
        probe=ProbeFaces(source="embedded", people=2),
    )
    return draw_role(Role.EXPRESSION, block, generator(2, "faces"))


@pytest.mark.parametrize(("size", "channels"), [(31, 1), (513, 3), (48, 2), (48, 0), (0, 1)])
def test_sizes_and_channels_are_refused(size: int, channels: int) -> None:
    with pytest.raises(StudyError) as caught:
        render(stimuli(), [0], size=size, channels=channels)
    assert str(caught.value) == (
        f"faces of {size} px with {channels} channels; allowed: 32 to 512 px, 1 (grey) or 3 (RGB)."
    )


def test_the_smallest_and_the_largest_size_are_allowed() -> None:
    assert render(stimuli(), [0], size=32, channels=1)[0].shape == (1, 32, 32)
    assert render(stimuli(), [0], size=512, channels=3)[0].shape == (1, 512, 512, 3)


def test_chunks_come_in_order_with_their_labels() -> None:
    made = list(iterate_chunks(stimuli(), size=32, channels=1, chunk=25, workers=1))
    assert [len(one.labels) for one in made] == [25, 25, 11]
    images, regions = render(stimuli(), range(61), size=32, channels=1)
    np.testing.assert_array_equal(np.concatenate([one.images for one in made]), images)
    np.testing.assert_array_equal(np.concatenate([one.regions for one in made]), regions)
    names = [name for one in made for name in one.labels["stimulus"]]
    assert names == stimuli().labels["stimulus"].tolist()
    assert [one.labels.index[0] for one in made] == [0, 0, 0]


@pytest.mark.parametrize(("n", "chunk", "step"), [(61, 25, 7), (10, 10, 10), (10, 3, 100), (1, 5, 2), (12, 4, 1)])
def test_jobs_cover_everything_once_and_cross_no_chunk(n: int, chunk: int, step: int, monkeypatch) -> None:
    monkeypatch.setattr(production, "JOB_PIXELS", step * 32 * 32 + 5)
    jobs = production._jobs(n, chunk=chunk, size=32)
    assert [index for start, stop in jobs for index in range(start, stop)] == list(range(n))
    assert all(0 < stop - start <= step and start // chunk == (stop - 1) // chunk for start, stop in jobs)


class Watched:
    """An executor that does its work at once and counts the results nobody has taken yet."""

    most = 0
    waiting = 0
    closed = 0

    _processes: dict[int, Any] | None = None

    def __init__(self, workers: int, *_: Any) -> None:
        Watched.most = Watched.waiting = Watched.closed = 0

    def submit(self, work: Any, **arguments: Any) -> Future:
        Watched.waiting += 1
        Watched.most = max(Watched.most, Watched.waiting)
        done: Future = Future()
        done.set_result(work(**arguments))
        take = done.result

        def result(timeout: float | None = None) -> Any:
            Watched.waiting -= 1
            return take(timeout)

        done.result = result  # type: ignore[method-assign]
        return done

    def shutdown(self, *, cancel_futures: bool) -> None:
        Watched.closed += 1


def test_work_is_sent_ahead_only_twice_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "ProcessPoolExecutor", Watched)
    monkeypatch.setattr(production, "JOB_PIXELS", 2 * 32 * 32)
    stream = iterate_chunks(stimuli(), size=32, channels=1, chunk=10, workers=3)
    for _ in range(3):
        next(stream)
        assert Watched.waiting <= 6  # what lies ready while a chunk is being written
    assert len(list(stream)) == 4
    assert (Watched.most, Watched.waiting, Watched.closed) == (6, 0, 1)


def test_a_single_worker_renders_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "ProcessPoolExecutor", None)  # calling it would fail
    assert len(list(iterate_chunks(stimuli().take([0, 1, 2]), size=32, channels=1, chunk=2, workers=1))) == 2


def test_an_error_in_a_worker_arrives_here_and_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "JOB_PIXELS", 8 * 32 * 32)
    broken = replace(stimuli(), scene=stimuli().scene[:, :3])  # no "scale": fails where it is rendered
    with pytest.raises(ValueError, match="could not be broadcast"):
        list(iterate_chunks(broken, size=32, channels=1, chunk=20, workers=2))
    assert multiprocessing.active_children() == []


def test_whoever_stops_early_leaves_no_worker_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "JOB_PIXELS", 4 * 32 * 32)
    stream = iterate_chunks(stimuli(), size=32, channels=1, chunk=4, workers=2)
    next(stream)
    stream.close()
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_said_so_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a system does that runs short of memory."""
    monkeypatch.setattr(production, "JOB_PIXELS", 4 * 32 * 32)
    stream = iterate_chunks(stimuli(), size=32, channels=1, chunk=4, workers=2)
    next(stream)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(StudyError) as caught:
        list(stream)
    assert str(caught.value) == (
        "one of the 2 processes that render faces was killed, most often because memory is short. "
        "Run the same command with fewer --workers."
    )
    assert multiprocessing.active_children() == []


def test_the_description_counts_and_names_its_source() -> None:
    found = describe_stimuli(stimuli())
    assert (found.role, found.shard_size, found.region_codes) == ("expression", production.SHARD, REGIONS)
    provenance = found.provenance
    assert isinstance(provenance, dict)
    labels = stimuli().labels
    expected = {"images": 61, "people": len(set(labels["identity"])), "test": 11, "train": 50}
    expected |= {name: labels["expression"].tolist().count(name) for name in sorted(set(labels["expression"]))}
    assert provenance == {"source": "embedded faces", "counts": expected, "excluded": [], "content": stimuli().digest()}


def test_an_import_reports_its_progress() -> None:
    heard: list[tuple[int, int]] = []
    part = stimuli().take(range(5))
    made = import_embedded(part, size=32, channels=1, workers=1, report=lambda done, total: heard.append((done, total)))
    assert sum(len(chunk.labels) for chunk in made.chunks) == 5
    assert heard == [(5, 5)]
    assert made.description == describe_stimuli(part)
