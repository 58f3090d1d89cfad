"""What every registered pass, target and generator owes, whoever wrote it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import fields, is_dataclass

import pytest

from adapass.budgeted import BudgetedPass
from adapass.defaults import CLEAN, EXTENSIVE_FAMILIES, FAMILIES, QUICK_FAMILIES
from adapass.pipeline import Pipeline
from adapass.registry import GENERATORS, PASSES, generator, generator_names, pass_class, pass_names
from adapass.rewrite import Exactness, Pass
from adapass.target import list_targets, load_target
from adapass.text_form import parse_pass


@pytest.mark.parametrize("name", pass_names())
def test_pass_contract(name: str) -> None:
    kind = pass_class(name)

    assert issubclass(kind, Pass)
    assert kind.name == name
    assert kind.__name__ == "".join(word.capitalize() for word in name.split("-"))
    assert (kind.__module__).rsplit(".", 1)[1] == name.replace("-", "_")
    assert kind.exactness in list(Exactness)
    assert (kind.exactness is Exactness.LOSSY) or not issubclass(kind, BudgetedPass)
    assert inspect.getdoc(kind)
    assert "->" in (inspect.getmodule(kind).__doc__ or "") or "After" in (
        inspect.getmodule(kind).__doc__ or ""
    )


@pytest.mark.parametrize("name", pass_names())
def test_pass_is_a_frozen_value_whose_text_parses_back(name: str) -> None:
    step = pass_class(name)()

    assert is_dataclass(step)
    assert type(step).__dataclass_params__.frozen  # type: ignore[attr-defined]  # pyright: ignore
    assert parse_pass(str(step)) == step
    assert step.options().keys() == {f.name for f in fields(step)}


@pytest.mark.parametrize("name", pass_names())
def test_every_option_is_documented(name: str) -> None:
    """A string under each field, as the help and the docs show it."""
    kind = pass_class(name)
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    documented = {
        statement.target.id
        for statement, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }

    assert {f.name for f in fields(kind)} <= documented


def test_the_default_pipelines_exist_and_round_trip() -> None:
    clean = Pipeline(parse_pass(name) for name in CLEAN)

    assert Pipeline.parse(str(clean)) == clean
    assert all(step.exactness is not Exactness.LOSSY for step in clean.passes)
    assert all(
        isinstance(parse_pass(text), BudgetedPass)
        for text in (*QUICK_FAMILIES, *FAMILIES, *EXTENSIVE_FAMILIES)
    )


def test_tables_name_each_class_once() -> None:
    for table in (PASSES, GENERATORS):
        assert len(set(table.values())) == len(table)
        assert all(re.fullmatch(r"[\w.]+:\w+", path) for path in table.values())
        assert list(table) == sorted(table)


@pytest.mark.parametrize("name", list_targets())
def test_every_target_loads_with_sources(name: str) -> None:
    target = load_target(name)

    for table in ("compute", "memory", "overhead"):
        for number in getattr(target, table):
            assert target.source_of(f"{table}.{number}")


@pytest.mark.parametrize("name", generator_names())
def test_every_generator_answers_the_protocol(name: str) -> None:
    backend = generator(name)

    assert backend.name == name
    for method in ("available", "supports", "variants", "build", "load", "device_present"):
        assert callable(getattr(backend, method))
