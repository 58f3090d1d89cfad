"""What an artifact says about itself: ``manifest.json`` as typed, frozen models.

Two hashes guard it. ``content_hash`` names what the artifact *is* (model, generated files, recipe,
certificate); measured numbers are left out, because no clock gives the same answer twice, so the
same command twice gives the same content hash. ``self_sha256`` is the hash of the manifest's own
bytes with this one field blanked, so that a flipped byte anywhere is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from adapass.errors import ArtifactError

SCHEMA_VERSION: Final = 2
"""2 added the certified operating points; 1 is still read."""
FORMAT: Final = "adapass-artifact"
BLANK: Final = "0" * 64
MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.onnx"
RECIPE_FILE: Final = "recipe.yaml"
REPORT_FILE: Final = "report.html"
PARETO_FILE: Final = "pareto.json"
RESERVED_FILES: Final = frozenset({MANIFEST_FILE, RECIPE_FILE, REPORT_FILE, PARETO_FILE})
"""Files adapass writes itself; neither a model nor a generator may bring a file of these names."""
VOLATILE_FILES: Final = frozenset({REPORT_FILE, PARETO_FILE})
"""Files with measured numbers in them: checked against damage, not part of ``content_hash``."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Kind(StrEnum):
    """Whether the artifact holds a new model or hands the old one back."""

    OPTIMIZED = "optimized"
    ORIGINAL = "original"
    """Nothing faster within the budget: ``model.onnx`` is the user's file, byte for byte."""


class Trust(StrEnum):
    """Where a latency comes from."""

    MEASURED = "measured"
    MODELLED = "modelled"


class _Section(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Port(_Section):
    """An input or output of the model."""

    name: str
    dtype: str
    """The NumPy name of the element type, for example ``float32``."""
    shape: tuple[int | str | None, ...] | None
    """Symbolic sizes by name, unknown ones as ``None``; ``None`` altogether when even the rank is unknown."""
    optional: bool = False
    """An input with a default value (a run-time knob such as the exit thresholds)."""


class Quality(_Section):
    """Quality on held-out data, before and after."""

    metric: str
    before: float | None
    after: float | None
    samples: int


class Latency(_Section):
    """Seconds per batch, before and after, taken in turns in one process when measured."""

    before_seconds: float | None
    after_seconds: float | None
    trust: Trust
    threads: int
    batch: int
    device: str = ""

    @property
    def ratio(self) -> float | None:
        """After over before: below 1 is faster."""
        if self.before_seconds is None or self.after_seconds is None or self.before_seconds <= 0:
            return None
        return self.after_seconds / self.before_seconds


class Exits(_Section):
    """How often each exit is expected to be taken; the last one is the end of the model."""

    rule: str
    shares: tuple[float, ...]
    thresholds: tuple[float | None, ...] = ()
    """One per early exit; ``None`` for an exit that is never taken."""
    mean_depth: float | None = None
    """Expected share of the model's work that is done, 0 to 1."""


class CertifiedPoint(_Section):
    """A setting of the run-time knobs that passed on the certify samples."""

    name: Annotated[str, Field(pattern=r"^p(0|[1-9][0-9]{0,3})$")]
    """``p0`` is the most careful one."""
    knobs: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    """By the name of the model's input; ``None`` is infinite: an exit that is never taken."""
    certified_drop: Annotated[float, Field(ge=0, lt=1)]
    """The smallest budget at which the walk through the points gets here; never falls along them."""
    p_value: Annotated[float, Field(ge=0, le=1)]
    """Valid for every budget from ``certified_drop`` to the tested one, which is in ``certificate``."""
    certificate: dict[str, JsonValue]


class PointMeasure(_Section):
    """What was measured, or is expected, of a certified point; with another clock it would be different."""

    name: str
    aliases: tuple[str, ...] = ()
    """``safe``, ``balanced``, ``fast``: by latency, hence here."""
    expected_seconds: float | None = None
    """Predicted from parts of the model; comparable among the points, not with ``seconds``."""
    seconds: float | None = None
    """Measured in turns with the original and the other measured points."""
    ratio: tuple[float, float, float] | None = None
    """Over the original's time, with the ends of its confidence interval."""
    score: float | None = None
    """The metric on the certify samples."""
    exits: Exits | None = None


class Original(_Section):
    """The model the artifact was made from."""

    name: str
    """The file's name without its folder."""
    sha256: Sha256
    size_bytes: int


class GeneratorInfo(_Section):
    """Which code generator made the runnable files, and how."""

    name: str
    variant: str
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Description(_Section):
    """The part of the manifest its author fills in; hashes and files are added on writing."""

    kind: Kind
    target: str
    task: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    original: Original
    generator: GeneratorInfo | None = None
    """``None``: run ``model.onnx`` as it is in ONNX Runtime."""
    quality: Quality | None = None
    certificate: dict[str, JsonValue] | None = None
    """``None``: not certified; ``warnings`` then says why."""
    latency: Latency | None = None
    exits: Exits | None = None
    points: tuple[CertifiedPoint, ...] = ()
    """From the most careful to the most aggressive; empty where nothing was certified."""
    default_point: str | None = None
    """The setting ``model.onnx`` has built in."""
    point_measures: tuple[PointMeasure, ...] = ()
    """One for each of ``points``, in the same order."""
    tools: dict[str, str] = Field(default_factory=dict)
    """Versions of everything that had a say in the result."""
    warnings: tuple[str, ...] = ()


class FileInfo(_Section):
    """Size and hash of one file of the artifact."""

    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(Description):
    """Everything in ``manifest.json``."""

    format: Literal["adapass-artifact"] = FORMAT
    schema_version: Literal[1, 2] = SCHEMA_VERSION
    generator_folder: str | None = None
    """Where the generator's files lie: ``.`` when they share ``model.onnx`` with the artifact itself."""
    files: dict[str, FileInfo]
    """Every file but the manifest, by its path from the artifact's folder, with forward slashes."""
    content_hash: Sha256 = BLANK
    self_sha256: Sha256 = BLANK


MEASURED_FIELDS: Final = frozenset({"latency", "quality", "exits", "warnings", "point_measures"})
SINCE_2: Final = frozenset({"points", "default_point", "point_measures"})


def content_hash(manifest: Manifest) -> str:
    """The name of what the artifact is: measurements, report and Pareto front left out."""
    unknown_then = SINCE_2 if manifest.schema_version == 1 else frozenset[str]()
    content = manifest.model_dump(
        mode="json", exclude={*MEASURED_FIELDS, *unknown_then, "content_hash", "self_sha256", "files"}
    )
    content["files"] = {
        path: info.sha256 for path, info in sorted(manifest.files.items()) if path not in VOLATILE_FILES
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_to_bytes(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``, both hashes filled in."""
    named = manifest.model_copy(update={"content_hash": content_hash(manifest), "self_sha256": BLANK})
    document = named.model_dump(mode="json")
    blank = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
    document["self_sha256"] = hashlib.sha256(blank.encode()).hexdigest()
    return (
        json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
    ).encode()


def manifest_from_bytes(raw: bytes, where: str) -> Manifest:
    """Parse and check ``manifest.json``; ``where`` names it in messages.

    Raises:
        ArtifactError: damaged, not a manifest, or written by a newer adapass.

    """
    document = _json_object(raw, where)
    _check_schema(document, where)
    _check_own_hash(document, raw, where)
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{where}: field '{field}': {first['msg']}; the artifact was not written by adapass"
        ) from error
    if manifest.schema_version == 1 and SINCE_2 & manifest.model_fields_set:
        raise ArtifactError(f"{where}: operating points in a manifest of schema version 1; {_AGAIN}")
    if content_hash(manifest) != manifest.content_hash:
        raise ArtifactError(f"{where}: content_hash does not match the content; {_AGAIN}")
    return manifest


_AGAIN: Final = "copy the artifact again from where it was made, or rebuild it with `adapass optimize`"


def _json_object(raw: bytes, where: str) -> Mapping[str, object]:
    try:
        document: object = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not valid JSON ({error}); {_AGAIN}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{where} holds a {type(document).__name__}, expected an object; {_AGAIN}")
    return cast("dict[str, object]", document)


def _check_schema(document: Mapping[str, object], where: str) -> None:
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"{where}: format is {document.get('format')!r}, expected '{FORMAT}'; this is no artifact"
        )
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{where}: schema_version is {version!r}, expected {SCHEMA_VERSION}; {_AGAIN}")
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{where} has schema version {version}, this adapass reads up to {SCHEMA_VERSION}: "
            "it was written by a newer adapass; upgrade with `pip install --upgrade adapass`"
        )


def _check_own_hash(document: Mapping[str, object], raw: bytes, where: str) -> None:
    claimed = document.get("self_sha256")
    if not isinstance(claimed, str) or raw.count(claimed.encode()) != 1:
        raise ArtifactError(f"{where}: self_sha256 is missing or damaged; {_AGAIN}")
    found = hashlib.sha256(raw.replace(claimed.encode(), BLANK.encode())).hexdigest()
    if found != claimed:
        raise ArtifactError(
            f"{where} is damaged: its sha256 is {found[:12]}…, expected {claimed[:12]}…; {_AGAIN}"
        )
