"""The same bytes on every platform: which operations the renderer may use, what they rely on, and a pinned build."""

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
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.embedded import canvas, production, rendering
from facespec.data.embedded.production import render
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.params import Data, ExpressionFaces, IdentityFaces, ProbeFaces
from facespec.study.seeds import generator
from facespec.study.vocabulary import ROLES, Role

FILES = sorted(Path(production.__file__).parent.glob("*.py"))

# Which integers to draw and how to file them: no pixel passes through these, so whole numbers may be counted.
BOOKKEEPING = {"roles.py", "production.py", "stimuli.py"}
# Correctly rounded by IEEE 754 (sqrt, and + - * / written as operators or `subtract`), exact by nature (comparisons,
# choice, floor, sign, integer arithmetic, casts), or no arithmetic at all (making and arranging arrays).
NUMPY = {
    "sqrt",
    "subtract",
    "maximum",
    "minimum",
    "abs",
    "floor",
    "where",
    "float32",
    "float64",
    "floating",
    "int32",
    "int64",
    "integer",
    "uint8",
    "uint32",
    "uint64",
    "bool_",
    "str_",
    "array",
    "asarray",
    "arange",
    "empty",
    "full",
    "full_like",
    "ones_like",
    "zeros",
    "zeros_like",
    "concatenate",
    "flatnonzero",
    "moveaxis",
    "repeat",
    "roll",
    "shape",
    "stack",
    "ndarray",
    "random",
}
NUMPY_BOOKKEEPING = NUMPY | {"argmax", "argsort", "ascontiguousarray"}
GENERATOR = {"random", "integers", "permutation"}  # bits and uniforms; no distribution, whose code may change
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.BitXor, ast.RShift)
REDUCING = {"sum", "mean", "dot", "prod", "std", "var", "cumsum", "cumprod", "trace", "round", "matmul"}
MODULES = {"__future__", "dataclasses", "collections", "collections.abc", "typing", "numpy", "numpy.typing"}
MODULES_BOOKKEEPING = MODULES | {"hashlib", "pandas", "concurrent.futures", "concurrent.futures.process"}
MODULES_BOOKKEEPING |= {"multiprocessing", "os", "signal", "threading"}  # of processes that render


def offences(source: str, *, bookkeeping: bool = False) -> list[str]:
    """What in `source` is outside the allowed operations."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and not isinstance(node.op, OPERATORS):
            whole = isinstance(node, ast.BinOp) and all(
                isinstance(part, ast.Constant) and type(part.value) is int for part in (node.left, node.right)
            )
            found += [] if whole else [type(node.op).__name__]  # 2**64 is a whole number, x**2 calls pow
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            allowed = MODULES_BOOKKEEPING if bookkeeping else MODULES
            found += [name for name in names if name not in allowed and not name.startswith("facespec.")]
        if isinstance(node, ast.Name) and node.id in ("sum", "pow", "round", "divmod", "eval", "exec", "getattr"):
            found.append(node.id)
        if isinstance(node, ast.Attribute):
            of_numpy = isinstance(node.value, ast.Name) and node.value.id == "np"
            if of_numpy and node.attr not in (NUMPY_BOOKKEEPING if bookkeeping else NUMPY):
                found.append(f"np.{node.attr}")
            if not of_numpy and node.attr in REDUCING and not bookkeeping:
                found.append(f".{node.attr}")
            if ast.unparse(node.value) == "np.random" and node.attr != "Generator":
                found.append(f"np.random.{node.attr}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "generator":
            found += [f"generator.{node.attr}"] if node.attr not in GENERATOR else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_operations_that_ieee_754_fixes(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8"), bookkeeping=path.name in BOOKKEEPING) == []


@pytest.mark.parametrize(
    ("source", "found"),
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
def test_the_check_sees_what_it_should(source: str, found: list[str]) -> None:
    assert sorted(offences(source)) == sorted(found)


@pytest.mark.parametrize("path", [p for p in FILES if p.name in BOOKKEEPING], ids=lambda path: path.stem)
def test_only_whole_numbers_are_added_up_in_the_bookkeeping(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    summed = {ast.unparse(call.value) for call in calls if call.attr in REDUCING}
    assert summed <= {"counts", "weights", "labels['split'] == split", "labels['expression'] == name"}


@pytest.mark.parametrize("length", [1, 3, 8, 17, 64, 1001])
def test_this_platform_rounds_float32_correctly_at_any_length(length: int) -> None:
    """Against float64, which holds exact products and, rounded twice, correct sums, quotients and roots of float32."""
    random = generator(1, "rounding", length)
    a = (random.random(length) * 4.0 - 2.0).astype(np.float32)
    b = (random.random(length) + 0.01).astype(np.float32)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    for found, expected in (
        (a + b, wide_a + wide_b),
        (a - b, wide_a - wide_b),
        (a * b, wide_a * wide_b),
        (a / b, wide_a / wide_b),
        (np.sqrt(b), np.sqrt(wide_b)),
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected.astype(np.float32))
    np.testing.assert_array_equal(np.sqrt(b)[1::2], np.sqrt(b[1::2]))  # strided as contiguous


@given(st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
def test_this_platform_rounds_float64_correctly(a: float, b: float) -> None:
    """Against exact fractions."""
    x, y = np.array([a]), np.array([b])
    for found, exact in (
        (x + y, Fraction(a) + Fraction(b)),
        (x * y, Fraction(a) * Fraction(b)),
        (y / x, Fraction(b) / Fraction(a)),
    ):
        assert found[0] == exact.numerator / exact.denominator  # Python rounds quotients of whole numbers correctly
    scaled = Fraction(a) * 4**600
    root = Fraction(math.isqrt(scaled.numerator // scaled.denominator), 2**600)
    assert np.sqrt(x)[0] == root.numerator / root.denominator


def test_every_colour_is_mixed_in_float32() -> None:
    """A float64 slipping in would be as exact, and half as fast."""
    kinds = set()

    def paint(self: canvas.Canvas, alpha: np.ndarray, colour: np.ndarray) -> None:
        kinds.update((alpha.dtype.name, colour.dtype.name, self.colour.dtype.name))
        original(self, alpha, colour)

    original = canvas.Canvas.paint
    with patch.object(canvas.Canvas, "paint", paint):
        render(small(Role.IDENTITY), range(3), size=32, channels=3)
    assert kinds == {"float32"}


def test_whole_arrays_and_python_numbers_stay_float32() -> None:
    """Numpy 2's promotion (NEP 50): a Python number never widens an array."""
    x = np.ones(3, np.float32)
    assert (x * 0.1 + 2 - np.float32(1) / 0.3).dtype == np.float32
    assert np.maximum(np.where(x > 0, np.float32(1), np.float32(2)), 0.0).dtype == np.float32


@cache
def small(role: Role) -> Stimuli:
    block = Data(
        seed=7,
        size=48,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(source="embedded", train=30, test=18),
        identity=IdentityFaces(source="embedded", people=8, train=4, test=2),
        probe=ProbeFaces(source="embedded", people=4),
    )
    return draw_role(role, block, generator(block.seed, "faces", role.value))


PARTS = {Role.EXPRESSION: range(48), Role.IDENTITY: range(48), Role.PROBE: range(0, 280, 11)}

# SHA-256 of images and regions. A change of any pixel changes them, and with them `data.dvc` and all results.
PINNED: dict[tuple[str, int, int], str] = {
    ("expression", 48, 1): "3ccdeafd5d99b5f314abf18592fa5b71a07502ca6a70b094be0b199c65fbb1f6",
    ("expression", 32, 3): "93e9ee3a5e429df0d6284ec188f084634cbfb3601065ebb614135ba32d471c1e",
    ("identity", 48, 1): "e941f4115eaec03848103be91b4a81c800822d12ce4a4e77b848fbc2b0a0d461",
    ("identity", 32, 3): "c9321d2339a920a1050959bebe8173bbc161b843281083136699d7b52764b68f",
    ("probe", 48, 1): "ac0da08284098d96c4f7ef3f260ff30a67a18105bf371348e12cfe2f0dd16a8d",
    ("probe", 32, 3): "778ebae5f962b460e7ba83610e72132449ad77c56a45da491d5c2ab8ee3ded36",
}


def digest(role: Role, *, size: int, channels: int) -> str:
    images, regions = render(small(role), PARTS[role], size=size, channels=channels)
    return hashlib.sha256(images.tobytes() + regions.tobytes()).hexdigest()


@pytest.mark.parametrize(("role", "size", "channels"), PINNED)
def test_a_small_build_has_the_pinned_bytes(role: str, size: int, channels: int) -> None:
    assert digest(Role(role), size=size, channels=channels) == PINNED[role, size, channels]


def test_every_role_is_pinned_in_grey_and_colour() -> None:
    assert {(role, channels) for role, _, channels in PINNED} == {(role, n) for role in ROLES for n in (1, 3)}


@cache
def reference() -> tuple[np.ndarray, np.ndarray]:
    return render(small(Role.EXPRESSION), PARTS[Role.EXPRESSION], size=32, channels=1)


@settings(max_examples=12, deadline=None)
@given(
    st.permutations(range(48)).map(lambda order: order[:14]),
    st.sets(st.integers(1, 13), max_size=4),
    st.integers(1, 40),
)
def test_order_batches_and_tiles_do_not_show(order: list[int], cuts: set[int], images_per_tile: int) -> None:
    with patch.object(rendering, "TILE", images_per_tile * 32 * 32):
        for indices in np.split(np.array(order), sorted(cuts)):
            images, regions = render(small(Role.EXPRESSION), indices, size=32, channels=1)
            np.testing.assert_array_equal(images, reference()[0][indices])
            np.testing.assert_array_equal(regions, reference()[1][indices])


def test_threads_do_not_show() -> None:
    pieces = [range(start, start + 12) for start in (36, 12, 0, 24)]
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda piece: render(small(Role.EXPRESSION), piece, size=32, channels=1), pieces))
    for piece, (images, regions) in zip(pieces, done, strict=True):
        np.testing.assert_array_equal(images, reference()[0][piece.start : piece.stop])
        np.testing.assert_array_equal(regions, reference()[1][piece.start : piece.stop])


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_and_chunks_do_not_show(workers: int) -> None:
    with patch.object(production, "JOB_PIXELS", 7 * 32 * 32):  # seven images a job: 48 is no multiple
        made = list(production.iterate_chunks(small(Role.EXPRESSION), size=32, channels=1, chunk=20, workers=workers))
    np.testing.assert_array_equal(np.concatenate([chunk.images for chunk in made]), reference()[0])
    np.testing.assert_array_equal(np.concatenate([chunk.regions for chunk in made]), reference()[1])


def test_neither_threads_of_libraries_nor_the_processor_s_width_show() -> None:
    """A fresh interpreter, two threads, and numpy held to the narrowest instructions it was built for."""
    wide = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index, call-overload]
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('exactness', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['exactness'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(module.digest(module.Role.IDENTITY, size=32, channels=3))\n"
    )
    settings = {"OMP_NUM_THREADS": "2", "NPY_DISABLE_CPU_FEATURES": " ".join(wide)}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == PINNED["identity", 32, 3]
