"""The record of the exits in ``model.metadata_props``: what ``fit`` and ``tune`` need to find again.

The graph is the truth; the record holds what cannot be read off it (which cut, which features, which
input is the mask) and is checked like any other untrusted input.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapass.analyses.cut_points import CutPoint, Layout
from adapass.errors import ModelError
from adapass.ops import EXITS_METADATA
from adapass.passes.exits.features import Site
from adapass.passes.exits.heads import HeadKind, HeadSpec
from adapass.passes.exits.output_form import Activation, Task
from adapass.passes.exits.rules import Rule

MAX_EXITS = 256
MAX_RECORD_CHARACTERS = 1_000_000


class HeadRecord(BaseModel):
    """One exit: its cut, its head, and the names of what was inserted for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cut: str
    side_values: tuple[str, ...]
    layout: Layout
    batch_axis: int = Field(ge=0, le=8)
    token_axis: int | None = Field(ge=0, le=8)
    channel_axis: int = Field(ge=0, le=8)
    channels: int = Field(ge=1)
    depth: float
    block: int | None
    height: int | None
    width: int | None
    mask: str | None
    wanted: HeadKind
    """The option the head was asked for with; ``auto`` lets ``fit`` replace ``kind`` and ``features``."""
    kind: HeadKind
    features: str
    queries: int = Field(ge=0, le=64)
    values: tuple[str, str, str, str, str]
    """Names: features, logits, weight, bias, queries ("" without)."""
    readiness: str = ""
    """Name of what the exit probability is computed with, where the rule needs one."""
    fitted: bool = False
    digest: str = ""
    """Hash of the fitted weights."""
    quality: dict[str, float] = Field(default_factory=dict)
    """What fitting measured on held-out fit samples."""

    def site(self) -> Site:
        cut = CutPoint(
            value=self.cut,
            side_values=self.side_values,
            layout=self.layout,
            batch_axis=self.batch_axis,
            token_axis=self.token_axis,
            channel_axis=self.channel_axis,
            channels=self.channels,
            depth=self.depth,
            block=self.block,
        )
        return Site(cut, self.height, self.width, self.mask)

    def spec(self) -> HeadSpec:
        return HeadSpec(self.kind, self.features, self.queries)


class ExitsRecord(BaseModel):
    """All exits of a model, in execution order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    cuts: tuple[str, ...] = Field(max_length=MAX_EXITS)
    rule: Rule
    thresholds: tuple[float | None, ...]
    """The defaults; ``None`` never stops."""
    task: Task
    activation: Activation
    classes: int = Field(ge=1)
    heads: tuple[HeadRecord, ...]


def write_record(model: ir.Model, record: ExitsRecord) -> None:
    model.metadata_props[EXITS_METADATA] = record.model_dump_json()


def read_record(model: ir.Model) -> ExitsRecord:
    """The record of a model that ``insert-exits`` was applied to.

    Raises:
        ModelError: there is none, or it is damaged.

    """
    text = model.metadata_props.get(EXITS_METADATA)
    if text is None:
        raise ModelError(
            f"the model has no early exits: metadata '{EXITS_METADATA}' is missing; apply insert-exits first"
        )
    if len(text) > MAX_RECORD_CHARACTERS:
        raise ModelError(
            f"metadata '{EXITS_METADATA}' has {len(text)} characters, the limit is {MAX_RECORD_CHARACTERS}"
        )
    try:
        record = ExitsRecord.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ModelError(
            f"metadata '{EXITS_METADATA}' is damaged at '{where}': {problem['msg']}; insert the exits again"
        ) from error
    if not len(record.cuts) == len(record.thresholds) == len(record.heads):
        raise ModelError(
            f"metadata '{EXITS_METADATA}' names {len(record.cuts)} cuts for {len(record.heads)} heads"
        )
    return record
