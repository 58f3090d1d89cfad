from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.budgeted import Array, Samples
from adapass.data import (
    Dataset,
    describe,
    fingerprint,
    load_data,
    overlap,
    sample_digests,
    split_by_hash,
    without,
)
from adapass.errors import DataError, UsageError

IMAGE = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[{batch},3] image) => (float[{batch},3] logits) {{ logits = Relu(image) }}
"""
MASKED = """
<ir_version: 10, opset_import: ["" : 20]>
net (int64[batch,seq] ids, int64[batch,seq] mask) => (float[batch,seq] logits)
{
    sum = Add(ids, mask)
    logits = Cast<to = 1>(sum)
}
"""


def dataset(values: list[float], *, batch: str = "batch", labels: Array | None = None) -> Dataset:
    arrays: dict[str, Array] = {"image": np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)}
    if labels is not None:
        arrays["labels"] = labels
    return load_data(arrays, ir.from_onnx_text(IMAGE.format(batch=batch)))


def values(data: Dataset) -> list[float]:
    return [float(data.feeds(index)["image"][0, 0]) for index in range(len(data))]


def sequences(lengths: list[int], width: int) -> Dataset:
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    arrays: dict[str, Array] = {"ids": mask * (1 + np.arange(len(lengths)))[:, None], "mask": mask}
    return load_data(arrays, ir.from_onnx_text(MASKED))


def test_is_what_passes_expect() -> None:
    data: Samples = dataset([1, 2])
    assert len(data) == 2


def test_subset_keeps_order_and_labels() -> None:
    part = dataset([1, 2, 3, 4], labels=np.array([0, 1, 2, 0])).subset([3, 1])

    assert values(part) == [4, 2]
    assert part.labels is not None
    assert part.labels.tolist() == [0, 1]
    assert values(part.subset([1])) == [2]


def test_a_batch_of_one_is_all_a_fixed_model_gets() -> None:
    data = dataset([1, 2, 3], batch="1")

    assert data.max_batch == 1
    assert data.feeds(2)["image"].shape == (1, 3)
    assert data.batch([1])["image"].shape == (1, 3)
    with pytest.raises(
        DataError, match="batch of 2 samples was asked for; the model's batch axis is fixed to 1"
    ):
        data.batch([0, 1])
    assert [len(indices) for indices, _ in data.batches(32)] == [1, 1, 1]


def test_refuses_empty_batches() -> None:
    with pytest.raises(DataError, match="batch of 0 samples"):
        dataset([1]).batch([])
    with pytest.raises(DataError, match="batch size 0"):
        next(dataset([1]).batches(0))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=20), size=st.integers(1, 7), sort=st.booleans()
)
def test_batches_cover_everything_once(lengths: list[int], size: int, sort: bool) -> None:
    data = sequences(lengths, 10)

    found = list(data.batches(size, by_length=sort))

    order = [int(index) for indices, _ in found for index in indices]
    assert sorted(order) == list(range(len(lengths)))
    assert all(feeds["ids"].shape == (len(rows), max(lengths[int(k)] for k in rows)) for rows, feeds in found)
    assert order == (sorted(order, key=lambda k: lengths[k]) if sort else sorted(order))


def test_digest_does_not_see_the_padding() -> None:
    assert sample_digests(sequences([2, 3], 5)) == sample_digests(sequences([2, 3], 9))
    assert sample_digests(sequences([2, 3], 5)) != sample_digests(sequences([2, 4], 5))


def test_fingerprint_sees_values_order_and_labels() -> None:
    base = fingerprint(dataset([1, 2, 3], labels=np.array([0, 1, 2])))

    assert base == fingerprint(dataset([1, 2, 3], labels=np.array([0, 1, 2])))
    assert base != fingerprint(dataset([1, 3, 2], labels=np.array([0, 1, 2])))
    assert base != fingerprint(dataset([1, 2, 3], labels=np.array([0, 1, 1])))
    assert base != fingerprint(dataset([1, 2, 3]))


def test_description_is_json_and_counts_repeats() -> None:
    found = describe(sequences([2, 3, 1], 5))
    assert json.loads(json.dumps(found))["lengths"] == {"min": 1, "mean": 2.0, "max": 3}
    assert describe(dataset([1, 2, 1, 1]))["repeated_samples"] == 2


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 60), min_size=40, max_size=80),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_split_depends_on_content_alone(numbers: list[int], seed: int, random: object) -> None:
    shares = {"fit": 0.5, "search": 0.25, "certify": 0.25}
    everything = [float(k) for k in range(61)]
    whole = split_by_hash(dataset(everything), shares, seed=seed)
    home = {value: name for name, part in whole.items() for value in values(part)}
    assert set(home) == set(everything)
    try:
        parts = split_by_hash(dataset([float(k) for k in numbers]), shares, seed=seed)
    except DataError:
        return

    assert sorted(value for part in parts.values() for value in values(part)) == sorted(map(float, numbers))
    assert all(home[value] == name for name, part in parts.items() for value in values(part))


def test_split_meets_the_shares_on_average_and_follows_the_seed() -> None:
    data = dataset([float(k) for k in range(4000)])

    first = split_by_hash(data, {"search": 0.4, "certify": 0.6}, seed=1)
    second = split_by_hash(data, {"certify": 0.6, "search": 0.4}, seed=2)

    assert abs(len(first["search"]) - 1600) < 4 * np.sqrt(4000 * 0.24)
    assert list(first) == ["search", "certify"]
    same = len(set(values(first["search"])) & set(values(second["search"])))
    assert abs(same - 640) < 4 * np.sqrt(4000 * 0.16 * 0.84)


@pytest.mark.parametrize(
    "shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {"a": float("nan")}]
)
def test_refuses_shares_that_make_no_sense(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="positive numbers that sum to 1 expected"):
        split_by_hash(dataset([1, 2]), shares, seed=0)


def test_says_when_a_part_is_empty() -> None:
    with pytest.raises(DataError, match=r"part '.' \(share 0\.5\) of 1 samples is empty"):
        split_by_hash(dataset([1]), {"a": 0.5, "b": 0.5}, seed=0)


def test_finds_and_removes_what_is_shared() -> None:
    evaluation, fit = dataset([1, 2, 3, 3, 4]), dataset([9, 3, 1])

    assert overlap(evaluation, fit) == 3
    assert values(without(evaluation, fit)) == [2, 4]
    assert overlap(without(evaluation, fit), fit) == 0
    assert len(without(fit, fit)) == 0


def test_every_sample_has_a_part_when_the_shares_round_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times 0.1 is a little less than 1 in doubles; the largest place still belongs somewhere."""
    shares = dict.fromkeys("abcdefghij", 0.1)
    assert sum(shares.values()) < 1
    places = iter([k / 10 + 0.05 for k in range(9)] + [1 - 2**-53])

    def place(digest: bytes, seed: int) -> float:
        del digest, seed
        return next(places)

    monkeypatch.setattr("adapass.data.split._uniform", place)

    parts = split_by_hash(dataset([float(k) for k in range(10)]), shares, seed=0)

    assert [len(part) for part in parts.values()] == [1] * 10
