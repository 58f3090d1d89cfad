from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.artifact.recipe_file import MAX_RECIPE_BYTES, read_recipe, recipe_to_text
from adapass.errors import RecipeError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(recipe=st.dictionaries(st.text(max_size=8), PLAIN, max_size=4))
def test_plain_data_comes_back(recipe: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_bytes(recipe_to_text(recipe).encode("utf-8"))

    assert read_recipe(path) == recipe


def test_keeps_the_order_and_writes_equal_parts_out() -> None:
    part = ["a", "b"]

    assert recipe_to_text({"z": part, "a": part}) == "z:\n- a\n- b\na:\n- a\n- b\n"


def test_refuses_to_write_objects() -> None:
    with pytest.raises(RecipeError, match="not plain data"):
        recipe_to_text({"path": Path("x")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("!!python/object/apply:os.system [echo]", "not plain YAML", id="python-object"),
        pytest.param("a: &x [1]\nb: *x", "aliases are not allowed", id="alias"),
        pytest.param("a: [", "not plain YAML", id="broken"),
        pytest.param("- a", "holds a list, expected a mapping", id="list"),
        pytest.param("1: a", "key 1 is a int, expected text", id="number-key"),
        pytest.param("a: " + "[" * 5000, "not plain YAML", id="deep"),
    ],
)
def test_refuses_what_is_not_a_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_refuses_a_missing_and_a_huge_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        read_recipe(tmp_path / "recipe.yaml")
    with (tmp_path / "recipe.yaml").open("wb") as file:
        file.truncate(MAX_RECIPE_BYTES + 1)
    with pytest.raises(RecipeError, match="larger than"):
        read_recipe(tmp_path / "recipe.yaml")
