"""Structural choices: what each leaves of every layer, what it saves, and what is left of other choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, Damage, Proposal, Samples
from adapass.data import Dataset, load_data
from adapass.executor import InProcess
from adapass.facts import FactCache
from adapass.graph.constants import constant_tensor
from adapass.graph.packed import pack_model
from adapass.graph.text import parse
from adapass.rewrite import PassResult
from adapass.search.evaluations import offered
from adapass.search.joint import JointProblem, Rates, plan_of
from adapass.search.plan import Part
from adapass.search.statics import StaticOption, overlap, priced_structural
from adapass.search.structural import MAX_PRICED, Layers, effect_of
from adapass.search.tasks import PackedPart, PlanTask, fit_plan
from adapass.text_form import parse_pass

QUANTIZE = cast("BudgetedPass", parse_pass("quantize-8bit"))
SETTINGS = {"half": 4, "quarter": 2}


@dataclass(frozen=True, kw_only=True)
class Narrow(BudgetedPass):
    """Keeps the first neurons between two products; ``none`` keeps all."""

    name: ClassVar[str] = "narrow"
    structural: ClassVar[bool] = True
    only_pairs: tuple[tuple[str, str], ...] = (("a", "b"), ("c", "d"))

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del model, facts
        return Proposal(
            tuple(
                Choice(self.name, first, setting)
                for first, _ in self.only_pairs
                for setting in (*SETTINGS, "none")
            )
        )

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        del facts
        following = dict(self.only_pairs)
        for choice in choices:
            kept = SETTINGS.get(choice.setting, 8)
            _cut(model, choice.site, 1, kept)
            _cut(model, following[choice.site], 0, kept)
        return PassResult(applied=len(choices))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        del model, data


@dataclass(frozen=True, kw_only=True)
class Skip(BudgetedPass):
    """Stands for a family that leaves out work and no weights; timed only where it was fitted."""

    name: ClassVar[str] = "skip"
    structural: ClassVar[bool] = True

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del model, facts
        return Proposal((Choice(self.name, "b", "half"),))

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        del facts
        del model
        return PassResult(applied=len(choices))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        model.metadata_props["fitted on"] = str(0 if data is None else len(data))

    def remaining(
        self, model: ir.Model, facts: FactCache, choice: Choice, samples: Samples
    ) -> Mapping[str, float]:
        del model, facts, choice, samples
        return {"a": 1.0, "b": 0.5, "c": 0.5}


def _cut(model: ir.Model, output: str, axis: int, kept: int) -> None:
    node = next(node for node in model.graph if node.outputs[0].name == output)
    value = node.inputs[1]
    tensor = constant_tensor(value)
    assert value is not None
    assert tensor is not None
    array = np.ascontiguousarray(tensor.numpy().take(range(kept), axis))
    value.const_value, value.shape = ir.tensor(array, name=value.name), ir.Shape(array.shape)


def _weight(name: str) -> str:
    return f"float[8, 8] {name} = {{{', '.join(['0.5'] * 64)}}}"


MODEL = f"""
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 8] x) => (float[N, 8] e) <
  {", ".join(_weight(f"w{name}") for name in "abcde")}
> {{
  a = MatMul (x, wa)
  b = MatMul (a, wb)
  c = MatMul (b, wc)
  d = MatMul (c, wd)
  e = MatMul (d, we)
}}
"""


def _priced() -> list[StaticOption]:
    step, model = Narrow(), parse(MODEL)
    choices = offered(step, model)

    def seconds(question: str, models: Mapping[str, ir.Model]) -> dict[str, float]:
        assert question.startswith("narrow|")
        return {name: sum(_elements(model).values()) / 64 for name, model in models.items()}

    damages = {c.key: Damage(0.1) for c in choices}
    return priced_structural(model, step, choices, damages, seconds, fit=_rows(model))


def _rows(model: ir.Model) -> Dataset:
    return load_data({"x": np.ones((2, 8), np.float32)}, model)


def _elements(model: ir.Model) -> dict[str, int]:
    return {
        node.outputs[0].name or "": int(tensor.size)
        for node in model.graph
        if (tensor := constant_tensor(node.inputs[1])) is not None
    }


def _by_key() -> dict[str, StaticOption]:
    return {option.choice.key: option for option in _priced()}


def test_an_effect_names_the_layers_that_shrink() -> None:
    model = parse(MODEL)
    effect = effect_of(
        model, Layers.of(model), Narrow(), Choice("narrow", "c", "quarter"), _rows(model), FactCache(model)
    )

    assert effect.left == {"c": 0.25, "d": 0.25}
    assert effect.of_site("c") == 0.75
    assert effect.of_site("e") == 0.0
    assert effect.depth == pytest.approx(0.5)
    assert effect.freed_bytes == 2 * 48 * 4
    assert _elements(model) == dict.fromkeys("abcde", 64)


def test_all_settings_are_offered_and_those_without_effect_left_out() -> None:
    assert set(_by_key()) == {"narrow:a=half", "narrow:a=quarter", "narrow:c=half", "narrow:c=quarter"}


def test_kinds_are_timed_once_and_shared_among_their_sites() -> None:
    found = _by_key()

    assert found["narrow:a=half"].saving == found["narrow:c=half"].saving == pytest.approx(1.0)
    assert found["narrow:a=quarter"].saving == pytest.approx(1.5)
    assert found["narrow:a=half"].slot == found["narrow:a=quarter"].slot


def test_a_family_says_what_work_is_left_where_weights_do_not_show_it() -> None:
    model, step = parse(MODEL), Skip()
    timed: dict[str, str] = {}

    def seconds(question: str, models: Mapping[str, ir.Model]) -> dict[str, float]:
        assert question.startswith("skip|")
        timed.update({name: model.metadata_props.get("fitted on", "") for name, model in models.items()})
        return {name: 3.0 if name == "clean" else 2.0 for name in models}

    choices = offered(step, model)
    (option,) = priced_structural(
        model, step, choices, {c.key: Damage(0.1) for c in choices}, seconds, fit=_rows(model)
    )

    assert timed == {"clean": "", "kind 0": "2"}
    assert option.saving == 1.0
    assert option.effect is not None
    assert option.effect.left == {"b": 0.5, "c": 0.5}
    assert option.effect.freed_bytes == 0
    assert overlap(option, _8bit("b", 2.0)) == 0.5
    # Half of b is gone already; what a narrower a takes away of b is gone for both.
    assert overlap(option, _by_key()["narrow:a=half"]) == pytest.approx(0.25)


def test_more_kinds_than_are_timed_are_priced_by_their_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapass.search.structural.MAX_PRICED", 1)
    found = _by_key()

    assert MAX_PRICED > 1
    assert found["narrow:a=quarter"].saving == pytest.approx(1.5)
    assert found["narrow:a=half"].saving == pytest.approx(1.0)


def _joint(*extra: StaticOption) -> JointProblem:
    return JointProblem((*_priced(), *extra), (), Rates(1.0), classes=False)


def _8bit(site: str, saving: float) -> StaticOption:
    return StaticOption(QUANTIZE, Choice("quantize-8bit", site, "static"), saving, Damage(0.0), 0.5, 0)


def test_8_bits_save_less_on_a_narrower_layer() -> None:
    narrow, small = _by_key()["narrow:a=quarter"], _8bit("b", 2.0)
    assert overlap(narrow, small) == 0.75
    assert overlap(small, narrow) == 0.0

    chosen = _joint(small).fastest(float("inf"))

    # 1.5 + 1.5 for both pairs, and a quarter of what 8 bits save.
    assert chosen.saving == pytest.approx(3.5)


def test_one_layer_is_not_made_narrower_twice_as_much() -> None:
    statics = _by_key()
    both = Narrow(only_pairs=(("b", "c"),))
    model = parse(MODEL)
    choice = Choice("narrow", "b", "half")
    effect = effect_of(model, Layers.of(model), both, choice, _rows(model), FactCache(model))
    other = StaticOption(both, choice, 1.0, Damage(0.0), 0.5, 0, effect)

    # Half of b is gone already: of what narrowing b and c saves a quarter of all is not there any more.
    assert overlap(statics["narrow:a=half"], other) == pytest.approx(0.25)


def test_a_choice_on_a_layer_that_is_gone_is_not_made() -> None:
    statics = _by_key()
    gone = statics["narrow:c=half"]
    assert gone.effect is not None
    nothing = type(gone.effect)({"c": 0.0, "d": 0.0}, {"c": 1024.0, "d": 1024.0}, 0.5, 0)
    removed = StaticOption(
        Narrow(only_pairs=()), Choice("narrow", "block", "remove"), 9.0, Damage(0.0), 0.5, 0, nothing
    )
    chosen = JointProblem((gone, removed, _8bit("c", 5.0)), (), Rates(0.0), classes=False).fastest(1.0)

    assert [option.choice.site for option in chosen.statics] == ["block"]


def test_structure_changes_before_precision() -> None:
    narrow = _by_key()["narrow:a=half"]
    plan = plan_of([_8bit("a", 1.0), narrow], None)

    assert [part.step.name for part in plan.parts] == ["narrow", "quantize-8bit"]


def test_what_goes_by_the_data_changes_before_exits_are_put_in() -> None:
    narrow = _by_key()["narrow:a=half"]
    skip = StaticOption(Skip(), Choice("skip", "b", "half"), 1.0, Damage(0.0), 0.5, 0)
    exits = cast("BudgetedPass", parse_pass("insert-exits"))
    plan = plan_of([_8bit("a", 1.0), narrow, skip], Part(exits, ()))

    assert [part.step.name for part in plan.parts] == ["skip", "insert-exits", "narrow", "quantize-8bit"]
    assert plan.knobs == Part(exits, ())
    assert [part.step.name for part in plan.statics] == ["skip", "narrow", "quantize-8bit"]


def test_a_plan_that_cannot_be_made_says_so_and_ends_nothing() -> None:
    rows = _rows(parse(MODEL))
    executor = InProcess()
    remove = cast("BudgetedPass", parse_pass("remove-blocks"))
    part = PackedPart.of(Part(remove, (Choice("remove-blocks", "gone", "remove"),)))

    found = fit_plan(PlanTask(executor.share(pack_model(parse(MODEL))), executor.share(rows), (part,), {}))

    assert isinstance(found, str)
    assert found.startswith("cannot be made: this model has no choice remove-blocks:gone=remove")
