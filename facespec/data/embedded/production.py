"""How are many faces rendered: by several processes, in order, a chunk at a time?"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np
import numpy.typing as npt

from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.rendering import paint
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.errors import StudyError
from facespec.study.vocabulary import EMBEDDED_NAME

SOURCE = EMBEDDED_NAME
SHARD = 2048  # images per file
JOB_PIXELS = 1 << 19  # pixels of one job of a process

Bytes = npt.NDArray[np.uint8]
Rendered = tuple[Bytes, Bytes]  # images and region codes


def render(stimuli: Stimuli, indices: Sequence[int] | npt.NDArray[np.integer], *, size: int, channels: int) -> Rendered:
    """Images uint8 (n, size, size) or (n, size, size, 3), and region codes uint8 (n, size, size; see `REGIONS`).

    An image depends on its own row of `stimuli` only, never on order, batch or number of processes. A grey image
    is the luminance of the RGB one, up to rounding and clipping.
    """
    if channels not in (1, 3) or not 32 <= size <= 512:
        raise StudyError(f"faces of {size} px with {channels} channels; allowed: 32 to 512 px, 1 (grey) or 3 (RGB).")
    part = stimuli.take(indices)
    return paint(part.people, part.units, part.scene, keys=part.keys, size=size, channels=channels)


def iterate_chunks(stimuli: Stimuli, *, size: int, channels: int, chunk: int, workers: int) -> Iterator[FaceChunk]:
    """All faces in order, `chunk` at a time, rendered by `workers` processes (1: in this one)."""
    n = len(stimuli)
    jobs = _make_jobs(n, chunk=chunk, size=size)
    with _RenderPool(stimuli, size=size, channels=channels, workers=workers) as pool:
        parts = pool.iterate_rendered(jobs)
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            rendered = [next(parts) for job_start, _ in jobs if start <= job_start < stop]
            images, regions = (np.concatenate(arrays) for arrays in zip(*rendered, strict=True))
            yield FaceChunk(images, stimuli.labels.iloc[start:stop].reset_index(drop=True), regions)


def _make_jobs(n: int, *, chunk: int, size: int) -> list[tuple[int, int]]:
    """First and last row + 1 of every job; none crosses a chunk."""
    step = max(1, JOB_PIXELS // (size * size))
    return [
        (start, min(start + step, edge + chunk, n))
        for edge in range(0, n, chunk)
        for start in range(edge, min(edge + chunk, n), step)
    ]


class _RenderPool:
    """Worker processes that end with the block; only a few jobs are submitted at once, so that memory stays bounded."""

    def __init__(self, stimuli: Stimuli, *, size: int, channels: int, workers: int) -> None:
        self.stimuli, self.size, self.channels, self.workers = stimuli, size, channels, workers
        # spawned, not forked: the same on every platform, and safe beside threads
        context = get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, context, _end_with_parent) if workers > 1 else None

    def __enter__(self) -> _RenderPool:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.pool is None:
            return
        if error is not None:  # running jobs are no longer needed
            for process in list((self.pool._processes or {}).values()):
                process.terminate()
        self.pool.shutdown(cancel_futures=True)

    def iterate_rendered(self, jobs: list[tuple[int, int]]) -> Iterator[Rendered]:
        """Images and region codes of each job, in order."""
        if self.pool is None:
            for job in jobs:
                yield paint(**self._make_arguments(job))
            return
        pending: deque[Future[Rendered]] = deque()
        try:
            for job in jobs:
                if len(pending) >= 2 * self.workers:
                    yield pending.popleft().result()
                pending.append(self.pool.submit(paint, **self._make_arguments(job)))
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise StudyError(
                f"one of the {self.workers} processes that render faces was killed, most often because memory is "
                "short. Run the same command with fewer --workers."
            ) from None

    def _make_arguments(self, job: tuple[int, int]) -> dict[str, Any]:
        part = self.stimuli.take(range(*job))
        return {
            "people": part.people,
            "units": part.units,
            "scene": part.scene,
            "keys": part.keys,
            "size": self.size,
            "channels": self.channels,
        }


def _end_with_parent() -> None:
    """In a worker process: end when the parent process is gone, also after SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to workers too, whose parent ends them
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def describe_stimuli(stimuli: Stimuli) -> FaceSetDescription:
    """What the FaceSet of `stimuli` says about itself."""
    labels = stimuli.labels
    counts = {"images": len(labels), "people": int(labels["identity"].nunique())}
    counts |= {split: int((labels["split"] == split).sum()) for split in sorted(set(labels["split"]))}
    counts |= {name: int((labels["expression"] == name).sum()) for name in sorted(set(labels["expression"]))}
    provenance = {"source": SOURCE, "counts": counts, "excluded": [], "content": stimuli.digest()}
    return FaceSetDescription(stimuli.role.value, SHARD, dict(REGIONS), provenance)


def import_embedded(
    stimuli: Stimuli, *, size: int, channels: int, workers: int, report: Callable[[int, int], None]
) -> FaceImport:
    """Chunks and description for a FaceSet; `report` is called with the numbers of rendered and of all images."""

    def iterate_reported() -> Iterator[FaceChunk]:
        done = 0
        for chunk in iterate_chunks(stimuli, size=size, channels=channels, chunk=512, workers=workers):
            done += len(chunk.labels)
            yield chunk
            report(done, len(stimuli))

    return FaceImport(iterate_reported(), describe_stimuli(stimuli))
