"""What an applied but unfitted removal still needs: the model as it was before.

It lies beside the graph, not in it: the graph has the size it will have, and is priced like that. Whoever
saves the model in between loses it; only the note of what was asked for is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, cast

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapass.budgeted import Array
from adapass.coupling.groups import Group
from adapass.errors import ModelError
from adapass.graph.edit import constant_array

NOTE: Final = "adapass.prune"
"""Metadata key of a model: what was removed, and whether it is fitted."""
MAX_NOTE_CHARACTERS: Final = 16_000_000
_ORIGINAL: Final = "adapass.prune.original"


class Note(BaseModel):
    """The record of a removal, checked like any other untrusted input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: dict[str, tuple[int, ...]] = Field(max_length=100_000)
    """The units left of each group, by its key in the model before."""
    fitted: bool = False
    generated: bool = False
    """Whether it was fitted on generated inputs, for want of data."""
    weights: tuple[str, ...] = ()
    """Initializers that were fitted."""
    digest: str = ""
    """Of their contents."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A removal to be fitted."""

    original: ir.Model
    groups: tuple[Group, ...]
    """Groups of the original that lose units."""
    kept: Mapping[str, tuple[int, ...]]


def note_removal(
    model: ir.Model, original: ir.Model, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]
) -> None:
    """Remember, on ``model``, the model before and what was kept of its ``groups``."""
    units = {key: tuple(stay) for key, stay in kept.items()}
    write_note(model, Note(kept=units))
    cast("dict[str, object]", model.graph.meta)[_ORIGINAL] = Pending(original, tuple(groups), units)


def pending(model: ir.Model) -> Pending | None:
    """The unfitted removal in ``model``, if there is one.

    Raises:
        ModelError: there is one and the model before is gone, or its note is damaged.

    """
    note = read_note(model)
    if note is None or note.fitted:
        return None
    waiting = cast("dict[str, object]", model.graph.meta).get(_ORIGINAL)
    if not isinstance(waiting, Pending):
        raise ModelError(
            "the model was pruned but not fitted, and saved in between: the weights to fit to are gone; "
            "apply the choices to the model before again"
        )
    return waiting


def settle(model: ir.Model, fitted: ir.Model, note: Note) -> None:
    """Let ``model`` be ``fitted``, and forget the model before."""
    cast("dict[str, object]", fitted.graph.meta).pop(_ORIGINAL, None)
    model.graph = fitted.graph
    model.functions.clear()
    model.functions.update(fitted.functions)
    write_note(model, note)


def write_note(model: ir.Model, note: Note) -> None:
    model.metadata_props[NOTE] = json.dumps(note.model_dump(), separators=(",", ":"))


def read_note(model: ir.Model) -> Note | None:
    """The note of ``model``.

    Raises:
        ModelError: it is damaged.

    """
    text = model.metadata_props.get(NOTE)
    if text is None:
        return None
    if len(text) > MAX_NOTE_CHARACTERS:
        raise ModelError(
            f"metadata '{NOTE}' has {len(text)} characters, the limit is {MAX_NOTE_CHARACTERS}; prune again"
        )
    try:
        return Note.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ModelError(
            f"metadata '{NOTE}' is damaged at '{where}': {problem['msg']}; prune again"
        ) from error


def digest_of(model: ir.Model, names: Sequence[str]) -> str:
    """Of the contents of initializers, in this order; a missing one counts as empty."""
    total = blake2b(digest_size=16)
    for name in names:
        value = model.graph.initializers.get(name)
        array: Array | None = constant_array(value)
        total.update(f"{name}\0".encode())
        if array is not None:
            total.update(f"{array.dtype.str}{array.shape}".encode())
            total.update(array.tobytes())
    return total.hexdigest()
