"""Many faces are rendered in order, in bounded memory, by worker processes that end."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from facespec.data.embedded import production
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.production import describe_stimuli, import_embedded, iterate_chunks, render
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.errors import StudyError
from facespec.study.vocabulary import Role
from toys import draw_faces


def draw() -> Stimuli:
    return draw_faces(Role.EXPRESSION, expression=(50, 11))


@pytest.mark.parametrize(("size", "channels"), [(31, 1), (513, 3), (48, 2), (48, 0), (0, 1)])
def test_sizes_and_channels_are_refused(size: int, channels: int) -> None:
    with pytest.raises(StudyError, match=f"^faces of {size} px with {channels} channels; allowed: 32 to 512 px, 1 "):
        render(draw(), [0], size=size, channels=channels)


def test_the_smallest_and_the_largest_size_are_allowed() -> None:
    assert render(draw(), [0], size=32, channels=1)[0].shape == (1, 32, 32)
    assert render(draw(), [0], size=512, channels=1)[0].shape == (1, 512, 512)


def test_chunks_come_in_order_with_their_labels() -> None:
    chunks = list(iterate_chunks(draw(), size=32, channels=1, chunk=25, workers=1))
    assert [len(chunk.labels) for chunk in chunks] == [25, 25, 11]
    images, regions = render(draw(), range(61), size=32, channels=1)
    np.testing.assert_array_equal(np.concatenate([chunk.images for chunk in chunks]), images)
    np.testing.assert_array_equal(np.concatenate([chunk.regions for chunk in chunks]), regions)
    names = [name for chunk in chunks for name in chunk.labels["stimulus"]]
    assert names == draw().labels["stimulus"].tolist()
    assert [chunk.labels.index[0] for chunk in chunks] == [0, 0, 0]


@pytest.mark.parametrize(("n", "chunk", "step"), [(61, 25, 7), (10, 10, 10), (10, 3, 100), (1, 5, 2), (12, 4, 1)])
def test_jobs_cover_everything_once_and_cross_no_chunk(n: int, chunk: int, step: int, monkeypatch) -> None:
    monkeypatch.setattr(production, "JOB_PIXELS", step * 32 * 32 + 5)
    jobs = production._make_jobs(n, chunk=chunk, size=32)
    assert [index for start, stop in jobs for index in range(start, stop)] == list(range(n))
    assert all(0 < stop - start <= step and start // chunk == (stop - 1) // chunk for start, stop in jobs)


class CountingExecutor:
    """An executor that runs jobs at once and counts the results that have not been taken."""

    most = 0
    pending = 0
    closed = 0

    _processes: dict[int, Any] | None = None

    def __init__(self, workers: int, *_: Any) -> None:
        CountingExecutor.most = CountingExecutor.pending = CountingExecutor.closed = 0

    def submit(self, work: Any, **arguments: Any) -> Future:
        CountingExecutor.pending += 1
        CountingExecutor.most = max(CountingExecutor.most, CountingExecutor.pending)
        future: Future = Future()
        future.set_result(work(**arguments))
        take = future.result

        def result(timeout: float | None = None) -> Any:
            CountingExecutor.pending -= 1
            return take(timeout)

        future.result = result  # type: ignore[method-assign]
        return future

    def shutdown(self, *, cancel_futures: bool) -> None:
        CountingExecutor.closed += 1


def test_at_most_two_jobs_per_worker_are_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "ProcessPoolExecutor", CountingExecutor)
    monkeypatch.setattr(production, "JOB_PIXELS", 2 * 32 * 32)
    chunks = iterate_chunks(draw(), size=32, channels=1, chunk=10, workers=3)
    for _ in range(3):
        next(chunks)
        assert CountingExecutor.pending <= 6  # while a chunk is being written
    assert len(list(chunks)) == 4
    assert (CountingExecutor.most, CountingExecutor.pending, CountingExecutor.closed) == (6, 0, 1)


def test_a_single_worker_renders_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "ProcessPoolExecutor", None)  # calling it would fail
    assert len(list(iterate_chunks(draw().take([0, 1, 2]), size=32, channels=1, chunk=2, workers=1))) == 2


def test_an_error_in_a_worker_is_raised_and_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "JOB_PIXELS", 8 * 32 * 32)
    broken = replace(draw(), scene=draw().scene[:, :3])  # no "scale": fails where it is rendered
    with pytest.raises(ValueError, match="could not be broadcast"):
        list(iterate_chunks(broken, size=32, channels=1, chunk=20, workers=2))
    assert multiprocessing.active_children() == []


def test_workers_end_if_chunks_are_not_consumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "JOB_PIXELS", 4 * 32 * 32)
    chunks = iterate_chunks(draw(), size=32, channels=1, chunk=4, workers=2)
    next(chunks)
    chunks.close()
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a system that is short of memory."""
    monkeypatch.setattr(production, "JOB_PIXELS", 4 * 32 * 32)
    chunks = iterate_chunks(draw(), size=32, channels=1, chunk=4, workers=2)
    next(chunks)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(StudyError, match=r"^one of the 2 processes that render faces was killed.* fewer --workers\.$"):
        list(chunks)
    assert multiprocessing.active_children() == []


def test_the_description_counts_and_names_its_source() -> None:
    description = describe_stimuli(draw())
    assert (description.role, description.shard_size, description.region_codes) == (
        "expression",
        production.SHARD,
        REGIONS,
    )
    provenance = description.provenance
    labels = draw().labels
    expected = {"images": 61, "people": len(set(labels["identity"])), "test": 11, "train": 50}
    expected |= {name: labels["expression"].tolist().count(name) for name in sorted(set(labels["expression"]))}
    assert provenance == {"source": "embedded faces", "counts": expected, "excluded": [], "content": draw().digest()}


def test_an_import_reports_its_progress() -> None:
    reports: list[tuple[int, int]] = []
    part = draw().take(range(5))
    faces = import_embedded(part, size=32, channels=1, workers=1, report=lambda *numbers: reports.append(numbers))
    assert sum(len(chunk.labels) for chunk in faces.chunks) == 5
    assert reports == [(5, 5)]
    assert faces.description == describe_stimuli(part)
