"""Dimensions: what an axis is made of.

A dimension is a leaf, a product of dimensions (outermost first: what a reshape merges), or a sum of
dimensions (first part first: what a concatenation joins). What is the same dimension is one node of a
union-find forest: ask ``find`` for the one that counts. See ``relations`` for how they become the same.

Sizes are vectors: the size at every point of the probe grid (batch and length vary along it), so that
divisions and comparisons hold for dynamic dimensions as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import count
from math import prod

Size = tuple[int, ...]
SINGLE = "single"
"""Mark of leaves that are single entries of what was once one leaf (see ``entries``)."""
LONELY = "it is a single channel that a reshape merges with other axes"
_SERIALS = count()


class Form(Enum):
    LEAF = "leaf"
    PRODUCT = "product"
    SUM = "sum"


class Dim:
    """A node of the union-find forest of dimensions; ask ``find`` for the one that counts."""

    __slots__ = ("form", "marks", "parent", "parts", "reason", "serial", "size")

    def __init__(self, size: Size, form: Form = Form.LEAF, parts: tuple[Dim, ...] = ()) -> None:
        self.size = size
        self.form = form
        self.parts = parts
        self.parent: Dim | None = None
        self.reason: str | None = None
        """Why a leaf must keep its size."""
        self.marks: set[str] = set()
        self.serial = next(_SERIALS)

    def __repr__(self) -> str:
        root = find(self)
        if root.form is Form.LEAF:
            return f"{root.size[0]}{'!' if root.reason else ''}#{root.serial}"
        sign = " x " if root.form is Form.PRODUCT else " + "
        return f"({sign.join(map(repr, root.parts))})"


def find(dim: Dim) -> Dim:
    root = dim
    while root.parent is not None:
        root = root.parent
    while dim.parent is not None:
        dim.parent, dim = root, dim.parent
    return root


def leaf(size: Size, reason: str | None = None, marks: set[str] | None = None) -> Dim:
    dim = Dim(size)
    dim.reason = reason
    dim.marks = set(marks or ())
    return dim


def one_like(dim: Dim) -> Dim:
    return Dim((1,) * len(dim.size))


def is_one(dim: Dim) -> bool:
    return all(size == 1 for size in find(dim).size)


def leaves(dim: Dim) -> list[Dim]:
    """The leaves below ``dim`` in order; a leaf that occurs twice is listed twice."""
    root = find(dim)
    if root.form is Form.LEAF:
        return [root]
    return [below for part in root.parts for below in leaves(part)]


def factors(dim: Dim) -> list[Dim]:
    """The outermost factor first; factors of size 1 are left out."""
    root = find(dim)
    if root.form is Form.PRODUCT:
        return [factor for part in root.parts for factor in factors(part)]
    return [] if is_one(root) else [root]


def terms(dim: Dim) -> list[Dim]:
    root = find(dim)
    if root.form is Form.SUM:
        return [term for part in root.parts for term in terms(part)]
    return [root]


def product(parts: Sequence[Dim], ones: Size) -> Dim:
    """The dimension that a reshape merges ``parts`` into; ``ones`` is the size of nothing."""
    flat = [factor for part in parts for factor in factors(part)]
    for part in parts:
        if SINGLE in find(part).marks and is_one(part):
            fix(part, LONELY)  # factors of size 1 are left out, so nothing could say where it went
    if len(flat) == 1:
        return flat[0]
    if not flat:
        return Dim(ones)
    return Dim(_multiply(flat, ones), Form.PRODUCT, tuple(flat))


def total(parts: Sequence[Dim]) -> Dim:
    """The dimension that a concatenation joins ``parts`` into."""
    flat = [term for part in parts for term in terms(part) if any(find(term).size)]
    if len(flat) == 1 or not flat:
        return flat[0] if flat else find(parts[0])
    size = tuple(sum(sizes) for sizes in zip(*(find(term).size for term in flat), strict=True))
    return Dim(size, Form.SUM, tuple(flat))


def fix(dim: Dim, reason: str) -> None:
    """Let every leaf below ``dim`` keep its size; the first reason given stands."""
    for each in leaves(dim):
        each.reason = each.reason or reason


def reason_of(dim: Dim) -> str | None:
    """Why no leaf below ``dim`` can be cut; ``None`` when one can (or there is nothing to cut)."""
    below = leaves(dim)
    return below[0].reason if all(each.reason for each in below) else None


def mark(dim: Dim, *words: str) -> None:
    for each in leaves(dim):
        each.marks.update(words)


def _multiply(parts: Sequence[Dim], ones: Size) -> Size:
    sizes = [find(part).size for part in parts]
    return tuple(prod(size[point] for size in sizes) for point in range(len(ones)))
