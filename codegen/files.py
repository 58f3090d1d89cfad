"""Files that generators share which run ONNX files: one model, or one a stage with the wiring between them.

``model.onnx`` holds the lowerings none, if and masked; ``stage_K.onnx`` and ``stages.json`` the staged one.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir
from pydantic import BaseModel, ValidationError

from adapass.errors import ArtifactError, ModelError
from adapass.graph.save import save_model
from adapass.lowering.branches import lower_to_if
from adapass.lowering.masked import lower_to_masked
from adapass.lowering.stages import lower_to_stages
from adapass.lowering.wiring import Wiring

MAX_BYTES = 4 * 1024 * 1024
WIRING_FILE = "stages.json"
MODEL_FILE = "model.onnx"

SomePlan = TypeVar("SomePlan", bound=BaseModel)


class Lowering(StrEnum):
    """How exits are run."""

    NONE = "none"
    IF = "if"
    STAGED = "staged"
    MASKED = "masked"


def lowered(model: ir.Model, lowering: Lowering) -> ir.Model:
    """A copy of ``model`` as one file of standard operators (any lowering but ``staged``)."""
    return lower_to_if(model) if lowering is Lowering.IF else lower_to_masked(model)


def why_not_split(model: ir.Model) -> str | None:
    """Why samples cannot leave ``model`` early; ``None`` when they can."""
    try:
        lower_to_stages(model)
    except ModelError as error:
        return str(error)
    return None


def write_wiring(wiring: Wiring, folder: Path) -> None:
    (folder / WIRING_FILE).write_text(wiring.to_json(), encoding="utf-8")


def read_wiring(folder: Path, stages: int) -> Wiring:
    """Raises ``ArtifactError`` when it is damaged, or not for this many stages."""
    wiring = Wiring.from_json(read_small(folder / WIRING_FILE))
    if len(wiring.stages) != stages:
        raise ArtifactError(
            f"{folder / WIRING_FILE} has {len(wiring.stages)} stages, expected {stages}; build it again"
        )
    return wiring


def save_stage(model: ir.Model, folder: Path, index: int) -> None:
    save_model(model, folder / stage_file(index))


def stage_file(index: int) -> str:
    return f"stage_{index}.onnx"


def read_plan_as(kind: type[SomePlan], file: Path, *, schema: int) -> SomePlan:
    """Raises ``ArtifactError`` when the plan is missing, damaged or newer than this version."""
    text = read_small(file)
    try:
        plan = kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{file} is damaged at '{place}': {first['msg']}") from error
    found = plan.model_dump()["schema_version"]
    if found != schema:
        raise ArtifactError(f"{file} has schema {found}, expected {schema}; update adapass")
    return plan


def read_small(file: Path) -> str:
    """The text of a file of the artifact; links and large files are refused."""
    own_file(file)
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ArtifactError(f"{file} has {size} bytes, expected at most {MAX_BYTES}; the artifact is damaged")
    return file.read_text(encoding="utf-8")


def own_file(file: Path) -> Path:
    """``file``, if it is a regular file inside its folder and no link."""
    if file.is_symlink() or not file.is_file():
        raise ArtifactError(f"{file} is missing or not a regular file; build the artifact again")
    return file
