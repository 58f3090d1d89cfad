"""The text form of passes and pipelines, and back.

    fold-constants,quantize-8bit{per-channel=false calibration-samples=64},insert-exits{rule="margin"}

A pass is its name, followed by the options that differ from their defaults. Values are bare words
(numbers, true/false, identifiers), JSON strings, or JSON lists. Printing and parsing round-trip.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from adapass.errors import RecipeError
from adapass.registry import pass_class
from adapass.rewrite import Pass

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_BARE = re.compile(r"[A-Za-z0-9_.+:-]+")
_MAX_TEXT_CHARACTERS = 100_000


def pass_to_text(step: Pass) -> str:
    """Print a pass; options equal to their default are left out."""
    shown = [
        f"{f.name.replace('_', '-')}={_value_to_text(getattr(step, f.name))}"
        for f in fields(step)
        if getattr(step, f.name) != _default(f)
    ]
    return f"{step.name}{{{' '.join(shown)}}}" if shown else step.name


def parse_pass(text: str) -> Pass:
    """Parse exactly one pass.

    Raises:
        RecipeError: the text is malformed, or the pass, an option or a value is unknown.

    """
    passes = parse_passes(text)
    if len(passes) != 1:
        raise RecipeError(f"expected one pass, found {len(passes)} in '{text}'")
    return passes[0]


def parse_passes(text: str) -> tuple[Pass, ...]:
    """Parse a comma-separated list of passes; the empty text is the empty pipeline."""
    if len(text) > _MAX_TEXT_CHARACTERS:
        raise RecipeError(
            f"pipeline text has {len(text)} characters, at most {_MAX_TEXT_CHARACTERS} are read"
        )
    return tuple(build_pass(name, options) for name, options in _scan(text))


def build_pass(name: str, options: Mapping[str, object]) -> Pass:
    """Make a pass from its name and raw options (as parsed from text, or from a recipe).

    Raises:
        RecipeError: unknown pass or option, or a value of the wrong type.

    """
    kind = pass_class(name)
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    values: dict[str, Any] = {}
    for raw, value in options.items():
        key = raw.replace("-", "_")
        if key not in known:
            listed = ", ".join(sorted(k.replace("_", "-") for k in known)) or "none"
            raise RecipeError(f"pass '{name}' has no option '{raw}'; its options: {listed}")
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise RecipeError(f"pass '{name}', option '{raw}': {value!r} does not fit: {reason}") from error
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"pass '{name}': {error}") from error


def _default(option: Field[Any]) -> object:
    return option.default_factory() if option.default_factory is not MISSING else option.default


def _value_to_text(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list | frozenset):
        listed = cast("Collection[Any]", value)
        items = sorted(listed) if isinstance(value, frozenset) else list(listed)
        return json.dumps(items)
    if value is None:
        return "null"
    text = str(value)
    plain = _BARE.fullmatch(text) and _bare_value(text) == text
    return text if plain else json.dumps(text)


def _bare_value(word: str) -> object:
    """Numbers, booleans and null keep their type, so that '1' and 1 stay apart; the rest are strings."""
    constants: dict[str, object] = {
        "true": True,
        "false": False,
        "null": None,
        "inf": float("inf"),
        "-inf": float("-inf"),
    }
    if word in constants:
        return constants[word]
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return word


def _scan(text: str) -> Iterator[tuple[str, dict[str, object]]]:
    position = _skip(text, 0)
    while position < len(text):
        if (name := _NAME.match(text, position)) is None:
            raise RecipeError(_complaint(text, position, "a pass name"))
        position = _skip(text, name.end())
        options: dict[str, object] = {}
        if text[position : position + 1] == "{":
            position = _scan_options(text, position + 1, options)
        yield name.group(), options
        position = _skip(text, position)
        if position < len(text):
            if text[position] != ",":
                raise RecipeError(_complaint(text, position, "',' or the end"))
            position = _skip(text, position + 1)
            if position == len(text):
                raise RecipeError(_complaint(text, position, "a pass name"))


def _scan_options(text: str, position: int, options: dict[str, object]) -> int:
    while True:
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            return position + 1
        key = _NAME.match(text, position)
        if key is None or text[key.end() : key.end() + 1] != "=":
            raise RecipeError(_complaint(text, position, "option=value or '}'"))
        if key.group() in options:
            raise RecipeError(f"option '{key.group()}' is given twice in '{text}'")
        options[key.group()], position = _scan_value(text, key.end() + 1)


def _scan_value(text: str, position: int) -> tuple[object, int]:
    if text[position : position + 1] in {'"', "["}:
        try:
            value, length = json.JSONDecoder().raw_decode(text[position:])
        except json.JSONDecodeError as error:
            raise RecipeError(_complaint(text, position, "a JSON string or list")) from error
        return value, position + length
    if (word := _BARE.match(text, position)) is None:
        raise RecipeError(_complaint(text, position, "a value"))
    return _bare_value(word.group()), word.end()


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _complaint(text: str, position: int, expected: str) -> str:
    found = f"'{text[position : position + 20]}'" if position < len(text) else "the end"
    return f"pipeline text, character {position + 1}: expected {expected}, found {found}"
