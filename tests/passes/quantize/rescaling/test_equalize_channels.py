"""equalize-channels: ranges of weights on both sides of a pair become the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.facts import FactCache
from adapass.graph.save import to_bytes
from adapass.passes.quantize.rescaling.equalize import equalizing_scales
from adapass.passes.quantize.rescaling.equalize_channels import EqualizeChannels
from adapass.passes.quantize.rescaling.find import find_links
from adapass.passes.quantize.rescaling.links import Doubles
from adapass.pipeline import Pipeline
from adapass.verification import compare
from tests.passes.quantize.rescaling.hard_models import uneven_blocks, uneven_mlp
from tests.passes.quantize.rescaling.test_links import attention, conv_net


def ranges(model: ir.Model) -> list[tuple[Doubles, Doubles]]:
    """Largest weight a channel on both sides of every link that a product writes."""
    found: list[tuple[Doubles, Doubles]] = []
    for link in find_links(model)[0]:
        sides = [[s for s in slots if s.is_weight] for slots in (link.divided, link.multiplied)]
        if all(sides):
            a, b = (np.max([s.largest(s.array, link.channels) for s in side], axis=0) for side in sides)
            found.append((a, b))
    return found


@pytest.mark.parametrize(("model", "pairs"), [(uneven_blocks(), 4), (uneven_mlp(), 2), (attention(), 2)])
def test_both_sides_have_the_same_ranges_and_the_outputs_stay(model: ir.Model, pairs: int) -> None:
    result = Pipeline([EqualizeChannels()]).run(model)

    assert result.results[0].applied == pairs
    for first, second in ranges(result.model):
        np.testing.assert_allclose(first, second, rtol=1e-2)
    assert compare(model, result.model).worst().relative_max < 1e-4


def test_a_chain_is_repeated_until_it_settles() -> None:
    """The depthwise weights in the middle belong to two pairs; one round leaves the first one unequal."""
    links, _ = find_links(uneven_blocks())
    scales = equalizing_scales(links)
    first = links[0]
    written = next(slot for slot in first.divided if slot.is_weight)
    read = first.multiplied[0]
    once = np.sqrt(written.largest(written.array, 32) / read.largest(read.array, 32))

    assert np.abs(np.log(scales[first.name] / once)).max() > 0.1


def test_a_second_run_changes_nothing() -> None:
    model = uneven_blocks()
    EqualizeChannels().run(model, FactCache(model))
    before = to_bytes(model)

    result = EqualizeChannels().run(model, FactCache(model))

    assert not result.changed
    assert result.rejected["both sides have the same ranges, or one has no weights"] == 4
    assert to_bytes(model) == before


def test_only_the_sites_asked_for() -> None:
    model = uneven_mlp()

    result = EqualizeChannels().run(model, FactCache(model), frozenset({"h2"}))

    assert result.sites == ("h2",)


def test_says_what_it_left_alone() -> None:
    model = conv_net("a = Abs(c)\nv = Add(a, c)")

    result = EqualizeChannels().run(model, FactCache(model))

    assert not result.changed
    assert result.rejected == {"it is added to another value": 1, "the model returns it": 1}


def test_a_dead_channel_is_left_as_it_is() -> None:
    model = conv_net("v = Relu(c)")
    weights = model.graph.initializers["w2"]
    assert weights.const_value is not None
    array = weights.const_value.numpy().copy()
    array[:, 2] = 0.0
    weights.const_value = ir.tensor(array, name="w2")

    (scale,) = equalizing_scales(find_links(model)[0]).values()

    assert scale[2] == 1.0
