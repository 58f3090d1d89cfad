"""Small models with blocks an exit can sit behind, and samples for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Choice, Feeds
from adapass.facts import FactCache
from adapass.graph.text import parse
from adapass.passes.exits.insert_exits import InsertExits

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Samples cut from arrays; token inputs (rank 2 integers) are trimmed to the longest of a batch."""

    arrays: Mapping[str, Array]
    truth: Array | None = None
    mask: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        chosen = {name: array[list(indices)] for name, array in self.arrays.items()}
        if self.mask is None:
            return chosen
        longest = int(np.asarray(chosen[self.mask]).sum(axis=1).max())
        return {name: array[:, :longest] for name, array in chosen.items()}

    @property
    def labels(self) -> Array | None:
        return self.truth


def literal(name: str, array: Floats) -> str:
    shape = ",".join(str(size) for size in array.shape)
    kind = f"float[{shape}]" if shape else "float"
    return f"{kind} {name} = {{{', '.join(repr(float(x)) for x in array.ravel())}}}"


def random_weights(sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    return {
        name: (
            random.standard_normal(size) / np.sqrt(np.prod(size) / size[-1 if len(size) < 3 else 0])
        ).astype(np.float32)
        for name, size in sizes.items()
    }


def mlp_text(*, end: str = "", output: str = "float[N,3] y", blocks: int = 3, classes: int = 3) -> str:
    """A residual stack on vectors; ``end`` computes y from the scores ``z``."""
    sizes: dict[str, tuple[int, ...]] = {"wh": (8, classes), "bh": (classes,)}
    for block in range(blocks):
        sizes |= {f"w{block}": (8, 8), f"b{block}": (8,)}
    weights = random_weights(sizes)
    weights["wh"] *= np.float32(4.0)
    lines: list[str] = []
    value = "x"
    for block in range(blocks):
        lines += [f"p{block} = Gemm ({value}, w{block}, b{block})", f"r{block} = Relu (p{block})"]
        lines += [f"v{block} = Add ({value}, r{block})"]
        value = f"v{block}"
    lines += [f"z = Gemm ({value}, wh, bh)", end or "y = Identity (z)"]
    stored = ", ".join(literal(name, array) for name, array in weights.items())
    body = "\n".join(lines)
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    mlp (float[N,8] x) => ({output}) <{stored}> {{ {body} }}"""


def conv_text(*, batch: str = "N") -> str:
    sizes: dict[str, tuple[int, ...]] = {"stem": (4, 3, 3, 3), "wh": (4, 3), "bh": (3,)}
    sizes |= {f"k{block}": (4, 4, 3, 3) for block in range(3)}
    weights = random_weights(sizes, seed=16)
    weights["wh"] *= np.float32(8.0)
    lines = ["s = Conv <pads = [1,1,1,1]> (image, stem)", "v = LeakyRelu <alpha = 0.5> (s)"]
    value = "v"
    for block in range(3):
        lines += [
            f"c{block} = Conv <pads = [1,1,1,1]> ({value}, k{block})",
            f"a{block} = Add ({value}, c{block})",
        ]
        lines += [f"v{block} = LeakyRelu <alpha = 0.5> (a{block})"]
        value = f"v{block}"
    lines += [f"g = GlobalAveragePool ({value})", "f = Flatten (g)", "y = Gemm (f, wh, bh)"]
    stored = ", ".join(literal(name, array) for name, array in weights.items())
    body = "\n".join(lines)
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    conv (float[{batch},3,8,8] image) => (float[{batch},3] y) <{stored}> {{ {body} }}"""


def token_text() -> str:
    """Embeddings, three blocks of masked attention, a classifier on the first token."""
    sizes: dict[str, tuple[int, ...]] = {"table": (20, 8), "wh": (8, 2), "bh": (2,)}
    for block in range(3):
        sizes |= {f"{part}{block}": (8, 8) for part in ("q", "k", "v")}
    weights = random_weights(sizes, seed=2)
    weights["table"] *= np.float32(4.0)
    weights["wh"] *= np.float32(4.0)
    weights |= {"one": np.asarray(1.0, np.float32), "far": np.asarray(-10000.0, np.float32)}
    lines = ["e = Gather (table, ids)", "m = Cast <to = 1> (mask)", "m3 = Unsqueeze (m, axis1)"]
    lines += ["away = Sub (one, m3)", "bias = Mul (away, far)"]
    value = "e"
    for b in range(3):
        lines += [
            f"Q{b} = MatMul ({value}, q{b})",
            f"K{b} = MatMul ({value}, k{b})",
            f"V{b} = MatMul ({value}, v{b})",
        ]
        lines += [f"T{b} = Transpose <perm = [0,2,1]> (K{b})", f"S{b} = MatMul (Q{b}, T{b})"]
        lines += [
            f"B{b} = Add (S{b}, bias)",
            f"P{b} = Softmax <axis = -1> (B{b})",
            f"O{b} = MatMul (P{b}, V{b})",
        ]
        lines += [f"x{b} = Add ({value}, O{b})"]
        value = f"x{b}"
    lines += [f"cls = Gather <axis = 1> ({value}, first)", "y = Gemm (cls, wh, bh)"]
    stored = ", ".join(literal(name, array) for name, array in weights.items())
    body = "\n".join(lines)
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    tokens (int64[N,T] ids, int64[N,T] mask) => (float[N,2] y)
    <{stored}, int64[1] axis1 = {{1}}, int64 first = {{0}}> {{ {body} }}"""


def vectors(count: int = 160) -> Rows:
    x = np.random.default_rng(3).standard_normal((count, 8)).astype(np.float32)
    return Rows({"x": x})


def images(count: int = 120) -> Rows:
    random = np.random.default_rng(4)
    x = random.standard_normal((count, 3, 8, 8)) + 2.0 * random.standard_normal((count, 3, 1, 1))
    return Rows({"image": x.astype(np.float32)})


def sentences(count: int = 160) -> Rows:
    random = np.random.default_rng(5)
    ids = random.integers(0, 20, (count, 7))
    lengths = random.integers(3, 8, count)
    mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
    return Rows({"ids": ids * mask, "mask": mask}, mask="mask")


@pytest.fixture
def mlp() -> Callable[..., ir.Model]:
    def make(*, end: str = "", output: str = "float[N,3] y", blocks: int = 3, classes: int = 3) -> ir.Model:
        return parse(mlp_text(end=end, output=output, blocks=blocks, classes=classes))

    return make


@pytest.fixture
def conv() -> ir.Model:
    return parse(conv_text())


@pytest.fixture
def token_model() -> ir.Model:
    return parse(token_text())


@pytest.fixture(params=["vectors", "images", "tokens"])
def case(request: pytest.FixtureRequest) -> tuple[ir.Model, Rows]:
    """A model and samples for it, once per layout of the cuts."""
    made = {
        "vectors": lambda: (parse(mlp_text()), vectors()),
        "images": lambda: (parse(conv_text()), images()),
        "tokens": lambda: (parse(token_text()), sentences()),
    }
    return made[request.param]()


@pytest.fixture
def applied() -> Callable[[ir.Model, InsertExits], tuple[Choice, ...]]:
    """Apply all proposed choices in place."""

    def apply(model: ir.Model, step: InsertExits) -> tuple[Choice, ...]:
        facts = FactCache(model)
        choices = step.propose(model, facts).choices
        step.apply(model, facts, choices)
        return choices

    return apply


@pytest.fixture
def rows() -> type[Rows]:
    return Rows


@pytest.fixture
def make_vectors() -> Callable[[int], Rows]:
    return vectors


@pytest.fixture
def make_sentences() -> Callable[[int], Rows]:
    return sentences


@pytest.fixture
def make_images() -> Callable[[int], Rows]:
    return images


@pytest.fixture
def fixed_batch_conv() -> ir.Model:
    return parse(conv_text(batch="4"))
