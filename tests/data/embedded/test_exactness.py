"""The same bytes on every platform: which operations the renderer may use, and the pinned bytes of a small build."""

from __future__ import annotations

import ast
import hashlib
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.embedded import canvas, production, rendering
from facespec.data.embedded.production import render
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.seeds import generator
from facespec.study.vocabulary import ROLES, Role
from toys import draw_faces, make_faces_block

FILES = sorted(Path(production.__file__).parent.glob("*.py"))

# Files that draw and arrange integers: no pixel is computed in them, so whole numbers may be counted. The battery moves
# and covers pixels; its only mean of floats is a sum in a given order.
BOOKKEEPING = {"roles.py", "production.py", "stimuli.py", "cues.py", "battery.py"}
# Correctly rounded by IEEE 754 (sqrt, and + - * / written as operators or `subtract`), exact by nature (comparisons,
# choice, floor, sign, integer arithmetic, casts), or no arithmetic at all (making and arranging arrays).
NUMPY = {
    *("sqrt", "subtract", "maximum", "minimum", "abs", "floor", "where", "concatenate", "flatnonzero", "moveaxis"),
    *("float32", "float64", "floating", "int32", "int64", "integer", "uint8", "uint32", "uint64", "bool_", "str_"),
    *("array", "asarray", "arange", "empty", "full", "full_like", "ones_like", "zeros", "zeros_like", "ndarray"),
    *("repeat", "roll", "shape", "stack", "random"),
}
NUMPY_BOOKKEEPING = NUMPY | {"isin", "argmax", "argsort", "ascontiguousarray"}
NUMPY_BOOKKEEPING |= {"tile", "pad", "expand_dims", "broadcast_to", "zeros_like"}
GENERATOR = {"random", "integers", "permutation"}  # bits and uniforms; no distribution, whose code may change
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.BitXor, ast.RShift)
REDUCING = {"sum", "mean", "dot", "prod", "std", "var", "cumsum", "cumprod", "trace", "round", "matmul"}
MODULES = {"__future__", "dataclasses", "collections", "collections.abc", "typing", "numpy", "numpy.typing"}
MODULES_BOOKKEEPING = MODULES | {"hashlib", "pandas", "concurrent.futures", "concurrent.futures.process"}
MODULES_BOOKKEEPING |= {"multiprocessing", "os", "signal", "threading", "functools"}  # of processes that render


def find_offences(source: str, *, bookkeeping: bool = False) -> list[str]:
    """The operations in `source` that are not allowed."""
    offences = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and not isinstance(node.op, OPERATORS):
            integers = isinstance(node, ast.BinOp) and all(
                isinstance(part, ast.Constant) and type(part.value) is int for part in (node.left, node.right)
            )
            offences += [] if integers else [type(node.op).__name__]  # 2**64 is a whole number, x**2 calls pow
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            allowed = MODULES_BOOKKEEPING if bookkeeping else MODULES
            offences += [name for name in names if name not in allowed and not name.startswith("facespec.")]
        if isinstance(node, ast.Name) and node.id in ("sum", "pow", "round", "divmod", "eval", "exec", "getattr"):
            offences.append(node.id)
        if isinstance(node, ast.Attribute):
            of_numpy = isinstance(node.value, ast.Name) and node.value.id == "np"
            if of_numpy and node.attr not in (NUMPY_BOOKKEEPING if bookkeeping else NUMPY):
                offences.append(f"np.{node.attr}")
            if not of_numpy and node.attr in REDUCING and not bookkeeping:
                offences.append(f".{node.attr}")
            if ast.unparse(node.value) == "np.random" and node.attr != "Generator":
                offences.append(f"np.random.{node.attr}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "generator":
            offences += [f"generator.{node.attr}"] if node.attr not in GENERATOR else []
    return offences


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_operations_that_ieee_754_fixes(path: Path) -> None:
    assert find_offences(path.read_text(encoding="utf-8"), bookkeeping=path.name in BOOKKEEPING) == [], (
        "use + - * / sqrt, min, max and comparisons"
    )


@pytest.mark.parametrize(
    ("source", "offences"),
    [
        ("np.sin(x)", ["np.sin"]),
        ("np.exp(x) + np.hypot(x, y)", ["np.exp", "np.hypot"]),
        ("x ** 2", ["Pow"]),
        ("x **= 0.5", ["Pow"]),
        ("x *= 2**64 - 1", []),
        ("a @ b", ["MatMult"]),
        ("x.sum()", [".sum"]),
        ("np.sum(x)", ["np.sum"]),
        ("np.add.reduce(x)", ["np.add"]),
        ("sum(x)", ["sum"]),
        ("import math", ["math"]),
        ("from scipy import ndimage", ["scipy"]),
        ("np.random.rand(3)", ["np.random.rand"]),
        ("generator.normal(0, 1)", ["generator.normal"]),
    ],
)
def test_the_check_finds_what_it_should(source: str, offences: list[str]) -> None:
    assert sorted(find_offences(source)) == sorted(offences)


@pytest.mark.parametrize("path", [p for p in FILES if p.name in BOOKKEEPING], ids=lambda path: path.stem)
def test_only_whole_numbers_are_added_up_in_the_bookkeeping(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    summed = {ast.unparse(call.value) for call in calls if call.attr in REDUCING}
    counted = {"labels['split'] == split", "labels['expression'] == name", "height > SPLIT_HEIGHT"}
    assert summed <= counted | {"counts", "weights", "lines", "lines[:, ::-1]", "pictures.astype(np.int64)"}


@pytest.mark.parametrize("length", [1, 3, 8, 17, 1001])
def test_this_platform_rounds_float32_correctly_at_any_length(length: int) -> None:
    """Against float64, which holds exact products and, rounded twice, correct sums, quotients and roots of float32."""
    random = generator(1, "rounding", length)
    a = (random.random(length) * 4.0 - 2.0).astype(np.float32)
    b = (random.random(length) + 0.01).astype(np.float32)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    for rounded, expected in (
        (a + b, wide_a + wide_b),
        (a - b, wide_a - wide_b),
        (a * b, wide_a * wide_b),
        (a / b, wide_a / wide_b),
        (np.sqrt(b), np.sqrt(wide_b)),
    ):
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(rounded, expected.astype(np.float32))
    np.testing.assert_array_equal(np.sqrt(b)[1::2], np.sqrt(b[1::2]))  # strided as contiguous


@given(st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
def test_this_platform_rounds_float64_correctly(a: float, b: float) -> None:
    """Against exact fractions."""
    x, y = np.array([a]), np.array([b])
    for rounded, exact in (
        (x + y, Fraction(a) + Fraction(b)),
        (x * y, Fraction(a) * Fraction(b)),
        (y / x, Fraction(b) / Fraction(a)),
    ):
        assert rounded[0] == exact.numerator / exact.denominator  # Python rounds quotients of whole numbers correctly
    scaled = Fraction(a) * 4**600
    root = Fraction(math.isqrt(scaled.numerator // scaled.denominator), 2**600)
    assert np.sqrt(x)[0] == root.numerator / root.denominator


def test_every_colour_is_mixed_in_float32() -> None:
    """float64 would be as exact, and half as fast."""
    dtypes = set()

    def paint(self: canvas.Canvas, alpha: np.ndarray, colour: np.ndarray) -> None:
        dtypes.update((alpha.dtype.name, colour.dtype.name, self.colour.dtype.name))
        original(self, alpha, colour)

    original = canvas.Canvas.paint
    with patch.object(canvas.Canvas, "paint", paint):
        render(draw_small(Role.IDENTITY), range(3), size=32, channels=3)
    assert dtypes == {"float32"}


SIZES: dict[str, Any] = {"seed": 7, "expression": (30, 18), "identity": (8, 4, 2), "probe": 4}


def draw_small(role: Role) -> Stimuli:
    return draw_faces(role, **SIZES)


PARTS = {Role.EXPRESSION: range(48), Role.IDENTITY: range(48), Role.PROBE: range(0, 280, 11)}

# SHA-256 of images and regions. A change of any pixel changes them, and with them `data.dvc` and all results.
PINNED: dict[tuple[str, int, int], str] = {
    ("expression", 48, 1): "4c404b88847f87e790fcab9cc257e07993c80784906f109472a290346e069b59",
    ("expression", 32, 3): "e9ec09a5de887ea18237de6a20f3cfee620c25a15aa598ca8bfa8e4e9392dc6d",
    ("identity", 48, 1): "7a560b44ed89b81a215b88417ddf8000bab7293a0021f6cfa9aa0857a6d5d42a",
    ("identity", 32, 3): "389cf8dca1d2df7aaac5623775a05709e02da87ebb1a97d4cdba53eeec2f6f20",
    ("probe", 48, 1): "caf7ff426181b3c83b2cdfcd0ccb24c7a2bbacb8940a1ffd7bf4d1c0cdbb0740",
    ("probe", 32, 3): "f6b0ec975ba0790fd832d237f45dbc87c260b66ab93ffa19cbd2569bf5ba5f14",
}


def digest_pixels(role: Role, *, size: int, channels: int) -> str:
    images, regions = render(draw_small(role), PARTS[role], size=size, channels=channels)
    return hashlib.sha256(images.tobytes() + regions.tobytes()).hexdigest()


@pytest.mark.parametrize(("role", "size", "channels"), PINNED)
def test_a_small_build_has_the_pinned_bytes(role: str, size: int, channels: int) -> None:
    assert digest_pixels(Role(role), size=size, channels=channels) == PINNED[role, size, channels]


def test_every_role_is_pinned_in_grey_and_colour() -> None:
    assert {(role, channels) for role, _, channels in PINNED} == {(role, n) for role in ROLES for n in (1, 3)}


@cache
def render_reference() -> tuple[np.ndarray, np.ndarray]:
    return render(draw_small(Role.EXPRESSION), PARTS[Role.EXPRESSION], size=32, channels=1)


@settings(max_examples=6)
@given(
    st.permutations(range(48)).map(lambda order: order[:14]),
    st.sets(st.integers(1, 13), max_size=4),
    st.integers(1, 40),
)
def test_pixels_do_not_depend_on_order_and_tiles(order: list[int], cuts: set[int], images_per_tile: int) -> None:
    with patch.object(rendering, "TILE", images_per_tile * 32 * 32):
        for indices in np.split(np.array(order), sorted(cuts)):
            images, regions = render(draw_small(Role.EXPRESSION), indices, size=32, channels=1)
            np.testing.assert_array_equal(images, render_reference()[0][indices])
            np.testing.assert_array_equal(regions, render_reference()[1][indices])


def test_pixels_do_not_depend_on_threads() -> None:
    pieces = [range(start, start + 12) for start in (36, 12, 0, 24)]
    with ThreadPoolExecutor(3) as threads:
        results = list(
            threads.map(lambda piece: render(draw_small(Role.EXPRESSION), piece, size=32, channels=1), pieces)
        )
    for piece, (images, regions) in zip(pieces, results, strict=True):
        np.testing.assert_array_equal(images, render_reference()[0][piece.start : piece.stop])
        np.testing.assert_array_equal(regions, render_reference()[1][piece.start : piece.stop])


@pytest.mark.parametrize("workers", [1, 2])
def test_pixels_do_not_depend_on_processes_and_chunks(workers: int) -> None:
    with patch.object(production, "JOB_PIXELS", 7 * 32 * 32):  # seven images a job: 48 is no multiple
        chunks = list(
            production.iterate_chunks(draw_small(Role.EXPRESSION), size=32, channels=1, chunk=20, workers=workers)
        )
    np.testing.assert_array_equal(np.concatenate([chunk.images for chunk in chunks]), render_reference()[0])
    np.testing.assert_array_equal(np.concatenate([chunk.regions for chunk in chunks]), render_reference()[1])


def test_pixels_do_not_depend_on_libraries_threads_and_the_processors_width() -> None:
    """A fresh interpreter, two threads, and numpy held to the narrowest instructions it was built for."""
    wide = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index, call-overload]
    program = (
        "import hashlib, sys\n"
        "from facespec.data.embedded.production import render\n"
        "from facespec.data.embedded.roles import draw_role\n"
        "from facespec.study.params import Data\n"
        "from facespec.study.seeds import generator\n"
        "from facespec.study.vocabulary import Role\n"
        "block = Data.model_validate_json(sys.argv[1])\n"
        "stimuli = draw_role(Role.IDENTITY, block, generator(block.seed, 'faces', 'identity'))\n"
        "images, regions = render(stimuli, range(48), size=32, channels=3)\n"
        "print(hashlib.sha256(images.tobytes() + regions.tobytes()).hexdigest())\n"
    )
    settings = {"OMP_NUM_THREADS": "2", "NPY_DISABLE_CPU_FEATURES": " ".join(wide)}
    command = [sys.executable, "-c", program, make_faces_block(**SIZES).model_dump_json()]
    result = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == PINNED["identity", 32, 3]
