"""Settings, batches and losses of healing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from adapass.data import load_data
from adapass.errors import DataError, UsageError
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.stand_ins import note_stand_in
from adapass.graph.text import parse
from adapass.healing.settings import Settings

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.healing.batches import batched, lengths, rounds, shuffled, split  # noqa: E402
from adapass.healing.objectives import hidden_loss, output_loss, relative_error  # noqa: E402
from adapass.healing.points import compared  # noqa: E402


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0.0),
        ("batch_size", 0),
        ("steps", -1),
        ("block_epochs", -1),
        ("average", 1.0),
        ("judgements", 0),
        ("held_out", 1.0),
        ("rank", -2),
        ("rate", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"healing: {name} is {value}"):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_a_split_has_all_samples_once() -> None:
    parts = split(50, 0.1, seed=3)

    assert len(parts.held_out) == 5
    assert sorted([*parts.train, *parts.held_out]) == list(range(50))
    assert list(split(50, 0.1, seed=3).held_out) == list(parts.held_out)
    assert list(split(50, 0.1, seed=4).held_out) != list(parts.held_out)


def test_one_sample_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 samples"):
        split(1, 0.1, seed=0)
    assert len(split(2, 0.9, seed=0).train) == 1


def test_a_round_sees_every_sample_in_batches_of_one_length() -> None:
    sizes = np.random.default_rng(0).integers(5, 100, 96)
    indices = np.arange(96)

    first = shuffled(indices, sizes, 8, rounds(0, 1))
    second = shuffled(indices, sizes, 8, rounds(0, 2))

    assert sorted(int(i) for batch in first for i in batch) == list(range(96))
    assert [list(b) for b in first] != [list(b) for b in second]
    spread = np.mean([np.ptp(sizes[b]) for b in first])
    assert spread < 0.3 * np.mean([np.ptp(sizes[b]) for b in batched(indices, indices, 8)])


def test_a_small_last_batch_is_left_out_of_training_only() -> None:
    sizes, indices = np.ones(19, np.int64), np.arange(19)

    assert sum(map(len, shuffled(indices, sizes, 8, rounds(0, 0)))) == 16
    assert sum(map(len, batched(indices, sizes, 8))) == 19


def test_lengths_are_those_without_padding() -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (int64[N, T] ids, int64[N, T] mask) => (int64[N, T] y) { y = Mul(ids, mask) }
        """
    )
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    data = load_data({"ids": mask, "mask": mask}, model)

    assert list(lengths(data)) == [6, 2]


def test_the_loss_of_classes_is_their_divergence() -> None:
    scores = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]])
    other = scores + torch.tensor([[0.0, 1.0, 0.0]])

    p, q = torch.softmax(scores, 1), torch.softmax(other, 1)
    assert float(output_loss(other, scores)) == pytest.approx(
        float((p * (p / q).log()).sum(1).mean()), rel=1e-5
    )
    # Adding a number to all scores of a sample changes no class.
    assert float(output_loss(scores + 3.0, scores, 2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(output_loss(q, p)) == pytest.approx(float(output_loss(other, scores)), rel=1e-4)


def test_the_loss_of_numbers_is_the_relative_error() -> None:
    wanted = torch.tensor([[[3.0], [4.0]]])

    assert float(output_loss(wanted * 1.1, wanted)) == pytest.approx(0.01, rel=1e-4)
    assert float(relative_error(torch.zeros(2), torch.zeros(2))) == 0.0


def test_values_with_fewer_tokens_are_not_compared() -> None:
    ones = torch.ones(2, 5, 3)
    teacher = {"a": ones, "b": ones}
    pairs = [("a", "a"), ("b", "b")]

    both = hidden_loss({"a": 2.0 * ones, "b": ones}, teacher, pairs)
    one = hidden_loss({"a": 2.0 * ones, "b": ones[:, :4]}, teacher, pairs)
    none = hidden_loss({"a": ones[:, :2], "b": ones[:, :4]}, teacher, pairs)

    assert (float(both), float(one), float(none)) == (0.5, 1.0, 0.0)


def test_what_stands_in_for_removed_blocks_is_compared_with_the_last_of_them(original: ir.Model) -> None:
    cut = original.clone()
    values = {v.name: v for node in cut.graph for v in node.outputs}
    head = next(node for node in cut.graph if node.outputs[0].name == "y")
    head.replace_input_with(0, values["h1"])
    note_stand_in(head, "h2")
    remove_dead_nodes(cut)

    assert compared(original, original.clone()) == (("h1", "h1"), ("h2", "h2"))
    assert compared(original, cut) == (("h1", "h2"),)
