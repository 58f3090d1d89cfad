"""The algebra of dimensions: which axes are the same thing, and how one is divided.

Operators say which dimensions are the same; ``unify`` makes it so by refining leaves until both have one
structure:

    [384]           with  12 x 32      the leaf becomes 12 x 32
    [64] + [32]     with  [96]         the leaf becomes [64] + [32]
    (8 + 4) x 32    with  [256] + [128]

Whatever does not fit (20 x 3 with 3 x 20) is fixed on both sides. Fixing is always safe: a leaf that
keeps its size satisfies every relation.
"""

from __future__ import annotations

from adapass.coupling.dims import (
    SINGLE,
    Dim,
    Form,
    Size,
    factors,
    find,
    fix,
    is_one,
    leaf,
    leaves,
    mark,
    product,
    reason_of,
    terms,
    total,
)

MISFIT = "one dimension is divided in two ways that do not fit together"
REPEATED = "its parts are repeated in a pattern that other groups do not follow"


def unify(first: Dim, second: Dim, why: str = MISFIT) -> bool:
    """Make two dimensions the same; where their structures do not fit, fix both and say so."""
    same = find(first).size == find(second).size and _unify(first, second)
    if not same:
        fix(first, why)
        fix(second, why)
    return same


def split(dim: Dim, outer: Size) -> tuple[Dim, Dim] | None:
    """``dim`` as a product of ``outer`` and the rest; ``None`` when its structure does not allow it."""
    root = find(dim)
    ones = (1,) * len(outer)
    if outer == ones:
        return Dim(ones), root
    if outer == root.size:
        return root, Dim(ones)
    if not _divides(outer, root.size):
        return None
    if (reason := reason_of(root)) is not None:
        # Its own parts where it has fitting ones: each knows why it is fixed.
        parts = _split_product(root, outer) if root.form is Form.PRODUCT else None
        return parts or (leaf(outer, reason), leaf(_divide(root.size, outer), reason))
    if root.form is Form.LEAF:
        parts = (leaf(outer, None, root.marks), leaf(_divide(root.size, outer), None, root.marks))
        _bind(root, product(parts, ones))
        return parts
    return _split_product(root, outer) if root.form is Form.PRODUCT else _split_sum(root, outer)


def cut(dim: Dim, at: Size) -> tuple[Dim, Dim] | None:
    """``dim`` as a sum of its first ``at`` entries and the rest; ``None`` when it cannot be parted there."""
    root = find(dim)
    rest = tuple(size - first for size, first in zip(root.size, at, strict=True))
    if (reason := reason_of(root)) is not None:
        return leaf(at, reason), leaf(rest, reason)
    if min(at) <= 0 or min(rest) <= 0:
        return None
    if root.form is Form.LEAF:
        parts = (leaf(at, None, root.marks), leaf(rest, None, root.marks))
        _bind(root, total(parts))
        return parts
    return _cut_sum(root, at) if root.form is Form.SUM else _cut_product(root, at)


def entries(dim: Dim) -> list[Dim] | None:
    """The entries of ``dim`` as leaves of their own; ``None`` where nothing of it can be cut anyway.

    What a permutation needs, and groups that do not fit. A leaf becomes the sum of its entries, everywhere
    it occurs. Of a product only the innermost factor that is free stays so: its entries come repeatedly.
    """
    if reason_of(dim) is not None or len(set(find(dim).size)) > 1:
        return None
    return [entry for term in list(terms(dim)) for entry in _entries_of(term)]


def _entries_of(term: Dim) -> list[Dim]:
    root = find(term)
    if root.form is Form.PRODUCT:
        return _entries_of_product(factors(root))
    if root.form is Form.SUM:
        return [entry for part in terms(root) for entry in _entries_of(part)]
    if not is_one(root):
        ones = (1,) * len(root.size)
        parts = [leaf(ones, root.reason, root.marks | {SINGLE}) for _ in range(root.size[0])]
        _bind(root, total(parts))
        return parts
    root.marks.add(SINGLE)
    return [root]


def _entries_of_product(parts: list[Dim]) -> list[Dim]:
    free = [number for number, part in enumerate(parts) if reason_of(part) is None]
    chosen = free[-1] if free else len(parts) - 1
    for number in free[:-1]:
        fix(parts[number], REPEATED)
    found = _entries_of(parts[chosen])
    for part in parts[chosen + 1 :]:
        found = [entry for entry in found for _ in range(find(part).size[0])]
    for part in reversed(parts[:chosen]):
        found = found * find(part).size[0]
    return found


def _by_entries(a: Dim, b: Dim) -> bool:
    """The last resort where single entries are told apart already."""
    if not any(SINGLE in each.marks for dim in (a, b) for each in leaves(dim)):
        return False
    left, right = entries(a), entries(b)
    if left is None or right is None:
        return False
    return _all_same(list(zip(left, right, strict=True)))


def _all_same(pairs: list[tuple[Dim, Dim]]) -> bool:
    """Unify all pairs, even behind one that does not fit: the rest of the relation holds all the same."""
    results = [unify(x, y) for x, y in pairs]
    return all(results)


def _unify(first: Dim, second: Dim) -> bool:
    a, b = find(first), find(second)
    if a is b:
        return True
    if a.size != b.size:
        return False
    for one, other in ((a, b), (b, a)):
        if (reason := reason_of(one)) is not None and one.form is Form.LEAF:
            fix(other, reason)
            if other.form is not Form.LEAF:
                return True
    if a.form is Form.LEAF or b.form is Form.LEAF:
        _bind(*((a, b) if a.form is Form.LEAF else (b, a)))
        return True
    if a.form is b.form:
        same = _align_factors(a, b) if a.form is Form.PRODUCT else _align_terms(a, b)
    else:
        same = _fit(*((a, b) if a.form is Form.PRODUCT else (b, a)))
    if not same and _by_entries(a, b):
        return True
    a, b = find(a), find(b)
    if same and a is not b and a.form is not Form.LEAF:
        a.parent = b
    return same


def _bind(bound: Dim, to: Dim) -> None:
    """Let the leaf ``bound`` be ``to``: its reason and marks go along."""
    bound.parent = to
    if bound.reason:
        fix(to, bound.reason)
    mark(to, *bound.marks)


def _align_factors(a: Dim, b: Dim) -> bool:
    left, right = factors(a), factors(b)
    pairs: list[tuple[Dim, Dim]] = []
    while left and right:
        x, y = left.pop(0), right.pop(0)
        sizes = find(x).size, find(y).size
        if sizes[0] == sizes[1]:
            pairs.append((x, y))
            continue
        is_left = _divides(sizes[1], sizes[0])
        if not is_left and not _divides(sizes[0], sizes[1]):
            return False
        parts = split(x, sizes[1]) if is_left else split(y, sizes[0])
        if parts is None:
            return False
        pairs.append((parts[0], y) if is_left else (x, parts[0]))
        (left if is_left else right)[:0] = factors(parts[1])
    return _all_same(pairs)


def _align_terms(a: Dim, b: Dim) -> bool:
    left, right = terms(a), terms(b)
    pairs: list[tuple[Dim, Dim]] = []
    while left and right:
        x, y = left.pop(0), right.pop(0)
        sizes = find(x).size, find(y).size
        if sizes[0] == sizes[1]:
            pairs.append((x, y))
            continue
        is_left = all(p >= q for p, q in zip(*sizes, strict=True))
        parts = cut(x, sizes[1]) if is_left else cut(y, sizes[0])
        if parts is None:
            return False
        pairs.append((parts[0], y) if is_left else (x, parts[0]))
        (left if is_left else right)[:0] = terms(parts[1])
    return _all_same(pairs)


def _fit(whole: Dim, parts: Dim) -> bool:
    """A product with a sum: the terms are parts of the outermost factor times the rest."""
    outer, *rest = factors(whole)
    inner = product(rest, (1,) * len(whole.size))
    pairs: list[tuple[Dim, Dim]] = []
    for term in terms(parts)[:-1]:
        if not _divides(inner.size, find(term).size):
            return False
        pieces = cut(outer, _divide(find(term).size, inner.size))
        if pieces is None:
            return False
        pairs.append((term, product([pieces[0], inner], (1,) * len(whole.size))))
        outer = pieces[1]
    pairs.append((terms(parts)[-1], product([outer, inner], (1,) * len(whole.size))))
    return _all_same(pairs)


def _split_product(root: Dim, outer: Size) -> tuple[Dim, Dim] | None:
    ones = (1,) * len(outer)
    left: list[Dim] = []
    right = factors(root)
    taken = ones
    while taken != outer:
        factor = right.pop(0)
        larger = tuple(a * b for a, b in zip(taken, find(factor).size, strict=True))
        if not _divides(larger, outer):
            if not _divides(taken, outer):
                return None
            parts = split(factor, _divide(outer, taken))
            if parts is None:
                return None
            return product([*left, parts[0]], ones), product([parts[1], *right], ones)
        left.append(factor)
        taken = larger
    return product(left, ones), product(right, ones)


def _split_sum(root: Dim, outer: Size) -> tuple[Dim, Dim] | None:
    """Terms with a common inner factor: (a x r) + (b x r) is (a + b) x r."""
    inner = _divide(root.size, outer)
    pieces: list[tuple[Dim, Dim]] = []
    for term in terms(root):
        if not _divides(inner, find(term).size):
            return None
        piece = split(term, _divide(find(term).size, inner))
        if piece is None:
            return None
        pieces.append(piece)
    for piece in pieces[1:]:
        unify(pieces[0][1], piece[1])
    sums = total([piece[0] for piece in pieces])
    common = find(pieces[0][1])
    whole = product([sums, common], (1,) * len(outer))
    if find(root).form is Form.SUM and whole is not find(root):
        find(root).parent = whole
    return sums, common


def _cut_sum(root: Dim, at: Size) -> tuple[Dim, Dim] | None:
    left: list[Dim] = []
    right = terms(root)
    missing = at
    while any(missing):
        term = right.pop(0)
        size = find(term).size
        if all(s <= m for s, m in zip(size, missing, strict=True)):
            left.append(term)
            missing = tuple(m - s for s, m in zip(size, missing, strict=True))
            continue
        parts = cut(term, missing)
        if parts is None:
            return None
        left.append(parts[0])
        right.insert(0, parts[1])
        break
    return total(left), total(right)


def _cut_product(root: Dim, at: Size) -> tuple[Dim, Dim] | None:
    outer, *rest = factors(root)
    ones = (1,) * len(at)
    inner = product(rest, ones)
    if not _divides(inner.size, at):
        return None
    parts = cut(outer, _divide(at, inner.size))
    return None if parts is None else (product([parts[0], *rest], ones), product([parts[1], *rest], ones))


def _divides(small: Size, large: Size) -> bool:
    return all(s > 0 and size % s == 0 for s, size in zip(small, large, strict=True))


def _divide(large: Size, small: Size) -> Size:
    return tuple(size // s for s, size in zip(small, large, strict=True))
