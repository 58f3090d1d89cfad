"""Variations: what is varied, that nothing else is, and that the original decides what is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from adapass.budgeted import Array, Feeds
from adapass.data import load_data
from adapass.graph.text import parse

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.execution import Session  # noqa: E402
from adapass.healing.recognition import recognised  # noqa: E402
from adapass.healing.variations import NOTHING, Variations, admitted_variations  # noqa: E402
from adapass.healing.variations_of_numbers import Numbers  # noqa: E402
from adapass.healing.variations_of_tokens import Tokens  # noqa: E402


@dataclass(frozen=True)
class Images:
    x: Array

    def __len__(self) -> int:
        return len(self.x)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": self.x[list(indices)]}

    @property
    def labels(self) -> Array | None:
        raise AssertionError("labels were looked at")


@pytest.fixture
def images() -> Images:
    return Images(np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32))


ROWS = np.arange(32)


def varied(images: Images, kind: str, seed: int = 0) -> tuple[Any, Any]:
    numbers = Numbers.of(images, ROWS)
    assert numbers is not None
    every = kind in ("mix", "patch")
    feeds, partner = numbers.batch(images, ROWS, (kind,), np.random.default_rng(seed), every=every)
    return feeds["x"], partner


def test_only_long_axes_move(images: Images) -> None:
    numbers = Numbers.of(images, ROWS)

    assert numbers is not None
    assert numbers.names == ("flip 2", "flip 3", "shift 2", "shift 3", "mix", "patch")


@pytest.mark.parametrize("axis", [2, 3])
def test_flips_turn_half_of_the_samples(images: Images, axis: int) -> None:
    found, _ = varied(images, f"flip {axis}")

    turned = [(a == np.flip(b, axis - 1)).all() for a, b in zip(found, images.x, strict=True)]
    same = [(a == b).all() for a, b in zip(found, images.x, strict=True)]
    assert 4 < sum(turned) < 28
    assert sum(turned) + sum(same) == 32


def test_shifts_repeat_the_edge(images: Images) -> None:
    found, _ = varied(images, "shift 3")

    left = np.concatenate([images.x[..., :1], images.x[..., :-1]], 3)
    right = np.concatenate([images.x[..., 1:], images.x[..., -1:]], 3)
    ways = [
        [bool((a == b).all()) for b in options]
        for a, options in zip(found, zip(left, images.x, right, strict=True), strict=True)
    ]
    assert all(sum(way) == 1 for way in ways)
    assert all(any(way[k] for way in ways) for k in range(3))


def test_mixes_lie_between_two_samples(images: Images) -> None:
    found, partner = varied(images, "mix")

    both = np.stack([images.x, images.x[partner]])
    assert (found <= both.max(0) + 1e-6).all()
    assert (found >= both.min(0) - 1e-6).all()
    moved = partner != np.arange(32)
    assert (found != images.x).any((1, 2, 3))[moved].all()


def test_patches_are_blocks_of_the_other_sample(images: Images) -> None:
    found, partner = varied(images, "patch")

    for made, own, other in zip(found, images.x, images.x[partner], strict=True):
        changed = (made != own).any(0)
        assert (made[:, changed] == other[:, changed]).all()
        rows, columns = changed.any(1), changed.any(0)
        assert (changed == np.outer(rows, columns)).all()  # a rectangle


def test_in_training_some_samples_are_mixed_and_some_patched(images: Images) -> None:
    numbers = Numbers.of(images, ROWS)
    assert numbers is not None

    found: Any = numbers.batch(images, ROWS, ("mix", "patch"), np.random.default_rng(0))[0]["x"]

    same = (found == images.x).mean((1, 2, 3))
    assert 2 < (same == 1.0).sum() < 16  # as they were
    assert 8 < (same < 0.01).sum() < 24  # mixed everywhere
    assert 2 < ((same > 0.01) & (same < 1.0)).sum() < 16  # patched


def test_the_samples_themselves_stay(images: Images) -> None:
    before = images.x.copy()
    for kind in ("flip 2", "shift 2", "mix", "patch"):
        varied(images, kind)

    assert (images.x == before).all()


def test_the_original_decides(images: Images) -> None:
    """A model that looks at what is left and what is right may not be shown mirrors; one that sums may."""
    heads = {
        "sides": "s = ReduceSum <keepdims: int = 0> (x, a12)\n y = MatMul(s, w)",
        "sum": "s = ReduceSum <keepdims: int = 0> (x, a12)\n r = Abs(s)\n y = MatMul(r, u)",
    }
    found: dict[str, Variations] = {}
    for name, head in heads.items():
        model = parse(
            f"""
            <ir_version: 8, opset_import: ["": 17]>
            g (float[N, 3, 8, 8] x) => (float[N, 2] y)
            <int64[2] a12 = {{1, 2}},
             float[8, 2] w = {{1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1}},
             float[8, 2] u = {{1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}}> {{ {head} }}
            """
        )
        found[name] = admitted_variations(Session(model), "y", images, ROWS, 8, seed=0)

    assert "flip 3" not in found["sides"].admitted
    assert found["sides"].recognised["flip 3"] < 0.7
    assert found["sides"].recognised["flip 2"] == 1.0
    assert "flip 3" in found["sum"].admitted


def test_batches_follow_from_their_randomness(images: Images) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 3, 8, 8] x) => (float[N, 1, 1, 1] y) { y = GlobalMaxPool(x) }
        """.replace("[N, 1, 1, 1]", "[N, 3, 1, 1]")
    )
    variations = admitted_variations(Session(model), "y", images, ROWS, 8, seed=0)
    assert variations.admitted

    first, again, other = (
        variations.batch(images, ROWS[:6], np.random.default_rng(seed))["x"] for seed in (1, 1, 2)
    )

    assert (first == again).all()
    assert (first != other).any()
    assert (NOTHING.batch(images, ROWS[:6], np.random.default_rng(0))["x"] == images.x[:6]).all()


TEXT = """
    <ir_version: 8, opset_import: ["": 17]>
    g (int64[N, T] ids, int64[N, T] mask) => (int64[N, T] y) { y = Mul(ids, mask) }
"""


def texts() -> Any:
    """Sentences of 5 to 12 tokens that begin with 101, end in 102, and are padded with 7."""
    random = np.random.default_rng(3)
    ids, mask = np.full((32, 12), 7), np.zeros((32, 12), np.int64)
    for i, size in enumerate(random.integers(5, 13, 32)):
        ids[i, :size] = [101, *(1000 + random.permutation(900)[: size - 2]), 102]
        mask[i, :size] = 1
    return load_data({"ids": ids, "mask": mask}, parse(TEXT))


@pytest.mark.parametrize("kind", ["replace", "swap", "delete", "part", "join"])
def test_texts_keep_their_ends_and_their_padding(kind: str) -> None:
    data = texts()
    tokens = Tokens.of(data, ROWS)
    assert tokens is not None
    assert tokens.words == ("ids",)

    feeds, partner = tokens.batch(data, ROWS, (kind,), np.random.default_rng(0), every=True)
    changed = 0
    for i in range(32):
        ids, mask = feeds["ids"][i], feeds["mask"][i].astype(bool)
        kept = ids[mask]
        assert kept[0] == 101
        assert kept[-1] == 102
        assert (ids[~mask] == 7).all()
        own, other = (data.feeds(k)["ids"][0] for k in (i, int(partner[i])))
        assert set(kept) <= set(own) | set(other)
        assert list(kept).count(101) == list(kept).count(102) == 1
        changed += not np.array_equal(kept, own)
        if kind == "swap":
            assert sorted(kept) == sorted(own)
        if kind in ("delete", "part"):
            assert list(kept) == [t for t in own if t in set(kept)]
    assert changed > 10


def test_texts_of_one_length_keep_it() -> None:
    ids = np.random.default_rng(0).integers(0, 100, (32, 6))
    data = load_data(
        {"ids": ids},
        parse(
            '<ir_version: 8, opset_import: ["": 17]> g (int64[N, 6] ids) => (int64[N, 6] y) { y = Neg(ids) }'
        ),
    )
    tokens = Tokens.of(data, ROWS)

    assert tokens is not None
    assert tokens.names == ("replace", "swap")


def test_recognition_counts_classes_of_either_parent() -> None:
    first, second = np.eye(3)[[0, 0, 1, 1]], np.eye(3)[[0, 1, 2, 2]]
    said = np.eye(3)[[0, 1, 0, 1]]

    assert recognised(said, first, second) == 0.75
    assert recognised(said, said, said) == 1.0


def test_recognition_of_numbers_is_one_less_the_relative_error() -> None:
    first = np.array([[[3.0], [4.0]]])

    assert recognised(1.1 * first, first, -first) == pytest.approx(0.99)
