"""The algebra of dimensions: structures are refined until they fit, or both sides are fixed."""

from __future__ import annotations

import pytest

from adapass.coupling.dims import Dim, factors, find, fix, leaf, leaves, product, reason_of, terms, total
from adapass.coupling.relations import cut, entries, split, unify

ONES = (1, 1)


def size(number: int) -> tuple[int, int]:
    return number, number


def sizes(dims: list[Dim]) -> list[int]:
    return [find(dim).size[0] for dim in dims]


def test_a_leaf_takes_the_structure_of_a_product() -> None:
    whole, heads, width = leaf(size(12)), leaf(size(3)), leaf(size(4))

    assert unify(whole, product([heads, width], ONES))

    assert factors(whole) == [heads, width]


def test_products_are_aligned_by_splitting_factors() -> None:
    left = product([leaf(size(4)), leaf(size(6))], ONES)
    right = product([leaf(size(2)), leaf(size(12))], ONES)

    assert unify(left, right)

    assert sizes(factors(left)) == sizes(factors(right)) == [2, 2, 6]


def test_factors_that_share_no_border_are_fixed() -> None:
    left = product([leaf(size(20)), leaf(size(3))], ONES)
    right = product([leaf(size(3)), leaf(size(20))], ONES)

    assert not unify(left, right)

    assert (
        reason_of(left) == reason_of(right) == "one dimension is divided in two ways that do not fit together"
    )


def test_sums_are_aligned_by_cutting_terms() -> None:
    left = total([leaf(size(4)), leaf(size(6))])
    right = total([leaf(size(7)), leaf(size(3))])

    assert unify(left, right)

    assert sizes(terms(left)) == sizes(terms(right)) == [4, 3, 3]
    assert [find(a) is find(b) for a, b in zip(terms(left), terms(right), strict=True)] == [True] * 3


def test_a_sum_with_a_common_inner_factor_is_a_product() -> None:
    parts = split(total([leaf(size(8)), leaf(size(4))]), size(3))

    assert parts is not None
    assert (sizes(terms(parts[0])), find(parts[1]).size) == ([2, 1], size(4))


def test_a_product_is_cut_between_its_outer_entries_only() -> None:
    whole = product([leaf(size(5)), leaf(size(4))], ONES)

    assert cut(whole, size(6)) is None
    parts = cut(whole, size(8))

    assert parts is not None
    assert [sizes(factors(part)) for part in parts] == [[2, 4], [3, 4]]


def test_the_first_reason_stands_and_spreads_to_all_leaves() -> None:
    whole, other = leaf(size(12)), leaf(size(12))
    assert split(other, size(3)) is not None

    fix(whole, "first")
    unify(whole, other)
    fix(other, "second")

    assert {each.reason for each in leaves(other)} == {"first"}


def test_a_dynamic_size_must_divide_at_every_point() -> None:
    assert split(leaf((6, 9)), (2, 2)) is None
    assert split(leaf((6, 9)), (2, 3)) is not None


def test_entries_of_a_product_repeat_its_innermost_free_factor() -> None:
    groups, inner = leaf(size(2)), leaf(size(3))

    found = entries(product([groups, inner], ONES))

    assert found is not None
    assert [find(entry).serial for entry in found[:3]] == [find(entry).serial for entry in found[3:]]
    assert reason_of(groups) is not None


@pytest.mark.parametrize("first", [True, False])
def test_unequal_sizes_never_become_one(first: bool) -> None:
    small, large = leaf(size(3)), leaf(size(4))

    assert not (unify(small, large) if first else unify(large, small))

    assert find(small) is not find(large)
