"""Structure facts of trained models and of the ones that come with onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from adapass.analyses.attention import AttentionCores
from adapass.analyses.axes import Axes
from adapass.analyses.blocks import Blocks
from adapass.analyses.cut_points import CutPoints, Layout
from adapass.analyses.feed_forward import FeedForwards
from adapass.analyses.regions import Regions
from adapass.analyses.shapes import Shapes
from adapass.analyses.token_mask import TokenMask
from adapass.analyses.work import Work
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.extract import extract
from adapass.graph.inputs import generate_feeds
from adapass.graph.load import load_model

Load = Callable[[str], FactCache]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.real_models
@pytest.mark.parametrize("name", ["minilm-sst2.onnx", "minilm-agnews.onnx"])
def test_minilm(shared_model: Load, name: str) -> None:
    """Six post-norm layers; the shapes that reshapes need are computed at run time."""
    facts = shared_model(name)
    points = facts.get(CutPoints).points
    blocks = facts.get(Blocks)

    assert len([point for point in points if point.layout is Layout.TOKENS]) == 13
    assert [point.block for point in points if point.block is not None] == list(range(6))
    assert blocks.repeats == ((0, 1, 2, 3, 4, 5),)
    assert [(core.heads, core.head_size) for core in facts.get(AttentionCores).cores] == [(12, 32)] * 6
    assert [part.hidden for part in facts.get(FeedForwards).parts] == [1536] * 6
    assert facts.get(TokenMask).input == "attention_mask"
    depths = [point.depth for point in points if point.block is not None]
    assert depths == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1], abs=0.01)


@pytest.mark.real_models
def test_minilm_side_values_can_be_gathered_or_computed_again(shared_model: Load) -> None:
    facts = shared_model("minilm-sst2.onnx")
    axes, shapes = facts.get(Axes), facts.get(Shapes)
    crossing = {name for point in facts.get(CutPoints).points for name in point.side_values}

    known = [axes.batch_axis(name) == 0 or axes.is_batch_sized(name) for name in crossing]
    fixed = [
        (dims := shapes.of(name)) is not None and not any(dim.batch for dim in dims) for name in crossing
    ]
    assert all(one or other for one, other in zip(known, fixed, strict=True))
    assert sum(axes.is_batch_sized(name) for name in crossing) >= 2


@pytest.mark.real_models
@pytest.mark.parametrize(("name", "count"), [("resnet20-cifar10.onnx", 9), ("resnet56-cifar10.onnx", 27)])
def test_resnets(shared_model: Load, name: str, count: int) -> None:
    facts = shared_model(name)
    blocks = facts.get(Blocks)

    assert len([block for block in blocks.blocks if block.residual]) == count
    assert len(facts.get(CutPoints).points) == count + 1
    assert {point.layout for point in facts.get(CutPoints).points} == {Layout.IMAGE}
    assert [len(run) for run in blocks.repeats] == [count // 3, count // 3 - 1, count // 3 - 1]


@pytest.mark.real_models
def test_vision_transformer_with_class_token(shared_model: Load) -> None:
    facts = shared_model("vit-cifar10.onnx")
    ends = [point for point in facts.get(CutPoints).points if point.block is not None]

    assert len(facts.get(Blocks).blocks) == len(ends) == 9
    assert {facts.get(Shapes).at(point.value, 2, 1) for point in ends} == {(2, 65, 128)}
    assert {(point.token_axis, point.channel_axis) for point in ends} == {(1, 2)}
    assert [core.heads for core in facts.get(AttentionCores).cores] == [4] * 9


@pytest.mark.real_models
def test_equal_regions_are_few(shared_model: Load) -> None:
    """What is measured once: 28 pieces of a ResNet-56 are seven different ones."""
    regions = shared_model("resnet56-cifar10.onnx").get(Regions).regions

    assert len(regions) == 29
    assert len({region.structure for region in regions}) == 7
    assert len({region.content for region in regions}) == 29


@pytest.mark.real_models
@pytest.mark.parametrize("name", ["minilm-sst2.onnx", "vit-cifar10.onnx"])
def test_cuts_separate_and_shapes_hold(shared_model: Load, name: str) -> None:
    facts = shared_model(name)
    feeds = generate_feeds(facts.model, seed=3)[-1]
    batch, tokens = next(iter(feeds.values())).shape[:2]
    outputs = [value.name or "" for value in facts.model.graph.outputs]
    points = facts.get(CutPoints).points[::4]
    names = sorted({name for point in points for name in (point.value, *point.side_values)} - set(feeds))
    known = Session(facts.model, outputs=[*names, *outputs]).run(feeds) | feeds

    assert {name: facts.get(Shapes).at(name, batch, tokens) for name in names} == {
        name: known[name].shape for name in names
    }
    for point in points:
        crossing = [point.value, *point.side_values]
        result = Session(extract(facts.model, crossing, outputs)).run(
            {name: known[name] for name in crossing}
        )
        np.testing.assert_array_equal(result[outputs[0]], known[outputs[0]])


@pytest.mark.parametrize(
    ("name", "cuts", "residual"),
    [
        ("bvlc_alexnet", 7, 0),
        ("densenet121", 62, 0),
        ("inception_v1", 12, 0),
        ("inception_v2", 13, 0),
        ("resnet50", 17, 16),
        ("shufflenet", 17, 13),
        ("squeezenet", 17, 0),
        ("vgg19", 18, 0),
        ("zfnet512", 7, 0),
    ],
)
def test_light_models_with_a_fixed_batch(name: str, cuts: int, residual: int) -> None:
    facts = FactCache(load_model(LIGHT / f"light_{name}.onnx"))
    points = facts.get(CutPoints).points

    assert len(points) == cuts
    assert all(point.batch_axis == 0 and point.channels for point in points)
    assert [point.depth for point in points] == sorted(point.depth for point in points)
    assert sum(block.residual for block in facts.get(Blocks).blocks) == residual
    assert facts.get(TokenMask).input is None


@pytest.mark.parametrize(("name", "giga"), [("resnet50", 8.2), ("vgg19", 39.3), ("squeezenet", 0.70)])
def test_published_operation_counts(name: str, giga: float) -> None:
    """Twice the multiply-adds in the literature (4.1, 19.6 and 0.35 billion)."""
    facts = FactCache(load_model(LIGHT / f"light_{name}.onnx"))

    assert sum(part.flops for part in facts.get(Work).typical) / 1e9 == pytest.approx(giga, rel=0.02)
