"""Turn what was found into an artifact and a report: the optimized model, or the original with the reason."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import onnx_ir as ir
from pydantic import JsonValue

from adapass.artifact.manifest import (
    CertifiedPoint,
    Description,
    Exits,
    GeneratorInfo,
    Kind,
    Latency,
    Original,
    PointMeasure,
    Quality,
)
from adapass.artifact.ports import model_ports
from adapass.artifact.write import Contents, write_artifact
from adapass.driver.front import without_recipes
from adapass.driver.material import Material
from adapass.driver.report import Report, Result, Row
from adapass.errors import ExitCode
from adapass.graph.load import load_model

TOOLS = (
    "adapass",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "scipy",
    "openvino",
    "apache-tvm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Everything that goes into the manifest and the report."""

    recipe: Mapping[str, object]
    task: str
    latency: Latency | None
    latency_note: str = ""
    quality: Quality | None = None
    certificate: Mapping[str, object] | None = None
    certificate_words: str = ""
    exits: Exits | None = None
    points: tuple[CertifiedPoint, ...] = ()
    point_measures: tuple[PointMeasure, ...] = ()
    pareto: tuple[Mapping[str, object], ...] = ()
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """The files of an optimized model."""

    portable: Path
    """A folder with the portable ``model.onnx``."""
    folder: Path
    """What the chosen generator built."""
    generator: GeneratorInfo


def conclude(material: Material, destination: Path, finding: Finding, shipment: Shipment) -> Result:
    """Write the optimized artifact."""
    model = shipment.portable / "model.onnx"
    about = _description(material, Kind.OPTIMIZED, load_model(model), finding, shipment.generator)
    contents = Contents(
        description=about,
        model=model,
        recipe=finding.recipe,
        pareto=finding.pareto,
        generator_folder=shipment.folder,
    )
    folder = write_artifact(destination, contents)
    after_bytes = sum(file.stat().st_size for file in shipment.folder.rglob("*") if file.is_file())
    shown = without_recipes(finding.pareto)
    return Result(folder, _report(material, finding, after_bytes), finding.recipe, shown)


def hand_back(material: Material, destination: Path, finding: Finding, reason: str) -> Result:
    """Write an artifact that holds the original, byte for byte, and say why."""
    about = _description(material, Kind.ORIGINAL, material.model, finding, None)
    contents = Contents(
        description=about.model_copy(update={"warnings": (*about.warnings, reason)}),
        model=material.path,
        recipe=finding.recipe,
        pareto=finding.pareto,
    )
    folder = write_artifact(destination, contents)
    report = _report(material, finding, None)
    shown = without_recipes(finding.pareto)
    return Result(folder, report, finding.recipe, shown, ExitCode.BUDGET_NOT_REACHABLE, reason)


def tool_versions() -> dict[str, str]:
    """Versions of everything that has a say in the result."""
    found = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _description(
    material: Material, kind: Kind, model: ir.Model, finding: Finding, generator: GeneratorInfo | None
) -> Description:
    inputs, outputs = model_ports(model)
    raw = material.path.read_bytes()
    return Description(
        kind=kind,
        target=material.target.name,
        task=finding.task,
        inputs=inputs,
        outputs=outputs,
        original=Original(
            name=material.path.name, sha256=hashlib.sha256(raw).hexdigest(), size_bytes=len(raw)
        ),
        generator=generator,
        quality=finding.quality,
        certificate=cast("dict[str, JsonValue] | None", finding.certificate),
        latency=finding.latency,
        exits=finding.exits if kind is Kind.OPTIMIZED else None,
        points=finding.points if kind is Kind.OPTIMIZED else (),
        default_point=finding.points[-1].name if finding.points and kind is Kind.OPTIMIZED else None,
        point_measures=finding.point_measures if kind is Kind.OPTIMIZED else (),
        tools=tool_versions(),
        warnings=finding.warnings,
    )


def _report(material: Material, finding: Finding, after_bytes: int | None) -> Report:
    rows = [*_latency_rows(finding), *_quality_rows(finding), *_exit_rows(finding), *_point_rows(finding)]
    before_bytes = material.path.stat().st_size
    if after_bytes is not None:
        rows.append(
            Row(
                "size",
                _megabytes(before_bytes),
                _megabytes(after_bytes),
                f"{after_bytes / before_bytes:.2f}x",
            )
        )
    figures: dict[str, object] = {
        "target": material.target.name,
        "latency": None if finding.latency is None else finding.latency.model_dump(mode="json"),
        "latency_ratio": None if finding.latency is None else finding.latency.ratio,
        "quality": None if finding.quality is None else finding.quality.model_dump(mode="json"),
        "certificate": finding.certificate,
        "exits": None if finding.exits is None else finding.exits.model_dump(mode="json"),
        "points": [point.name for point in finding.points],
        "size_bytes": {"before": before_bytes, "after": after_bytes},
    }
    words = [finding.certificate_words] if finding.certificate_words else []
    return Report(tuple(rows), (*words, *finding.warnings, *finding.messages), figures)


def _latency_rows(finding: Finding) -> Sequence[Row]:
    latency = finding.latency
    if latency is None or latency.before_seconds is None:
        return ()
    note = f"{latency.trust}, {latency.threads} threads, batch {latency.batch}"
    if latency.after_seconds is None:
        return (Row("latency, mean", _milliseconds(latency.before_seconds), "-", note),)
    shown = f"{latency.ratio:.2f}x, {note}" + (f" {finding.latency_note}" if finding.latency_note else "")
    before, after = latency.before_seconds, latency.after_seconds
    rate = Row(
        "throughput",
        f"{latency.batch / before:.0f}/s",
        f"{latency.batch / after:.0f}/s",
        f"{before / after:.2f}x",
    )
    return (Row("latency, mean", _milliseconds(before), _milliseconds(after), shown), rate)


def _quality_rows(finding: Finding) -> Sequence[Row]:
    quality = finding.quality
    if quality is None or quality.before is None or quality.after is None:
        return ()
    note = f"{100 * (quality.after - quality.before):+.2f} points, n = {quality.samples:,}"
    return (Row(quality.metric, f"{100 * quality.before:.2f} %", f"{100 * quality.after:.2f} %", note),)


def _exit_rows(finding: Finding) -> Sequence[Row]:
    exits = finding.exits
    if exits is None:
        return ()
    shares = " ".join(f"{100 * share:.0f}%" for share in exits.shares)
    depth = "-" if exits.mean_depth is None else f"{100 * exits.mean_depth:.0f} %"
    return (Row("work executed", "100 %", depth, f"samples leaving at each exit, last = end: {shares}"),)


def _point_rows(finding: Finding) -> Sequence[Row]:
    if len(finding.points) < 2:
        return ()
    named = [
        f"{alias} {measure.ratio[0]:.2f}x" if measure.ratio is not None else alias
        for measure in finding.point_measures
        for alias in measure.aliases
    ]
    note = f"certified, see `adapass pick --list`: {', '.join(named)}"
    return (Row("operating points", "1", str(len(finding.points)), note),)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB"
