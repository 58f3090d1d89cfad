"""Plans beside the fastest one that keep more of the model as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.certify.losses import Metric
from adapass.cost.model import Cost, Trust
from adapass.progress import Silent
from adapass.search.candidates import SAFER_DAMAGES, SURE, Search
from adapass.search.joint import plan_of
from adapass.search.rounds import Rounds
from adapass.search.statics import StaticOption
from adapass.search.trials import Candidate, Trials
from adapass.text_form import parse_pass

STEP = cast("BudgetedPass", parse_pass("quantize-8bit"))
MODEL = ir.Model(ir.Graph([], [], nodes=[], name="g"), ir_version=10)


@dataclass
class Tried:
    """What stands for the trials: it only remembers plans."""

    found: list[Candidate]
    notes: list[str] = field(default_factory=list[str])
    tried: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    proving: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(max_drop=0.01))
    judge: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(metric=Metric.ERROR))

    def keeps(self, candidate: Candidate) -> bool:
        return candidate in self.found

    def try_plan(self, statics: Sequence[StaticOption], knobs: BudgetedPass | None) -> None:
        assert knobs is None
        self.tried.append(tuple(option.choice.site for option in statics))


def option(site: str, damage: float, saving: float) -> StaticOption:
    return StaticOption(STEP, Choice(STEP.name, site, "static"), saving, Damage(damage**0.5), 0.5, 0)


OPTIONS = (option("a", 4.0, 1.0), option("b", 3.0, 2.0), option("c", 1.0, 1.0), option("d", 9.0, 0.5))


def search(risk: float, taken: Sequence[StaticOption]) -> Tried:
    fastest = Candidate(plan_of(taken, None), MODEL, Cost(0.1, Trust.MEASURED), 0.0, (), risk, risk)
    trials = Tried([fastest])
    work = Search(cast("Trials", trials), (STEP,), Rounds(repairs=0, shares=(), corrections=0), Silent())
    work.statics = OPTIONS
    work.try_safer_plans()
    return trials


def test_less_damage_than_the_fastest_plan_in_steps() -> None:
    assert SAFER_DAMAGES == (0.5, 0.2)
    # a, b and c damage by 8: of 4 most is saved by b and c, of 1.6 by c alone.
    assert search(0.01, OPTIONS[:3]).tried == [("b", "c"), ("c",)]


@pytest.mark.parametrize("risk", [0.0, SURE * 0.01])
def test_a_plan_that_is_safe_enough_needs_none(risk: float) -> None:
    assert search(risk, OPTIONS[:3]).tried == []


def test_where_nothing_damages_so_little_nothing_is_tried() -> None:
    assert search(0.01, OPTIONS[2:3]).tried == []
