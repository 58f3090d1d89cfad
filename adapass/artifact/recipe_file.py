"""``recipe.yaml``: plain data out, plain data in; no tags, no anchors, bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml

from adapass.errors import RecipeError

MAX_RECIPE_BYTES = 4 << 20


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """Write equal parts out in full: a recipe is read by people."""
        del data
        return True


class _PlainLoader(yaml.SafeLoader):
    """Refuses anchors: nested ones make a few lines stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def recipe_to_text(recipe: Mapping[str, object]) -> str:
    """YAML in the order of the mapping, in ASCII: some characters only survive escaped.

    Raises:
        RecipeError: something in it is not plain data.

    """
    try:
        return yaml.dump(dict(recipe), Dumper=_PlainDumper, sort_keys=False, width=100)
    except yaml.YAMLError as error:
        raise RecipeError(f"the recipe holds something that is not plain data: {error}") from error


def read_recipe(path: Path) -> dict[str, object]:
    """The mapping in a recipe file.

    Raises:
        RecipeError: missing, too large, not YAML, or not a mapping with text keys.

    """
    if not path.is_file():
        raise RecipeError(f"recipe {path} does not exist; an artifact's recipe is its {path.name}")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"recipe {path} is larger than {MAX_RECIPE_BYTES} bytes; this is no recipe")
    try:
        document: object = yaml.load(path.read_text("utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {path} is not plain YAML: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"recipe {path} holds a {type(document).__name__}, expected a mapping")
    recipe = cast("dict[object, object]", document)
    for key in recipe:
        if not isinstance(key, str):
            raise RecipeError(
                f"recipe {path}: key {key!r} is a {type(key).__name__}, expected text; quote it"
            )
    return cast("dict[str, object]", recipe)
