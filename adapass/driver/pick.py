"""Make another certified point the default of an artifact: no search, no data, nothing is built again.

    model.onnx and the generator's ONNX files    the default of the knobs, nothing else
    manifest.json                                default point, certificate, latency, quality, exits
    recipe.yaml                                  knobs and budget, so that ``--recipe`` makes the same model

A generator whose files are not ONNX keeps them: the loaded artifact feeds it the knobs of its point.

The certificate is that of the point at the budget the whole artifact was tested at, or at the stricter one
that was asked for. A stricter budget must have been settled without a look at the points
(``certify.inversion``); any point of the list, or the first that is fast enough, may be picked freely.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from adapass.artifact.defaults import set_defaults
from adapass.artifact.external import external_files
from adapass.artifact.files import copy_file
from adapass.artifact.manifest import MODEL_FILE, RESERVED_FILES, Description, Kind, Latency
from adapass.artifact.points import Point, find_point, knob_arrays, points_of
from adapass.artifact.read import Artifact, read_artifact
from adapass.artifact.write import Contents, check_destination, write_artifact
from adapass.certify.certificate import Certificate
from adapass.certify.inversion import within
from adapass.errors import BudgetError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to pick by: exactly one of these."""

    latency_seconds: float | None = None
    """The most careful point that takes at most this long a batch."""
    max_drop: float | None = None
    """The most aggressive point that is certified at this budget."""
    point: str | None = None
    """A name or alias."""

    def __post_init__(self) -> None:
        """Refuse contradictions before anything is read."""
        if sum(each is not None for each in (self.latency_seconds, self.max_drop, self.point)) != 1:
            raise UsageError("pick by one thing: a latency, a max drop, or the name of a point")
        if self.max_drop is not None and not 0.0 <= self.max_drop < 1.0:
            raise UsageError(f"max drop is {self.max_drop}, expected a share from 0 to below 1")


@dataclass(frozen=True, slots=True)
class Picked:
    """What ``pick`` wrote."""

    artifact: Path
    point: Point
    certificate: Certificate

    def to_dict(self) -> dict[str, object]:
        return {
            "artifact": str(self.artifact),
            "point": self.point.to_dict(),
            "certificate": self.certificate.to_dict(),
        }


def pick(artifact: Path, wish: Wish, output: Path | None = None) -> Picked:
    """Write the artifact again with another default point; by default as NAME-POINT.adapass in this folder.

    Raises:
        ArtifactError: the artifact is damaged or too new.
        BudgetError: no point is that fast or that careful; the message lists what there is.
        UsageError: it has no points, no such point, or something else is at ``output``.

    """
    source = read_artifact(artifact)
    chosen = choose(source, wish)
    destination = _destination(artifact, chosen, output)
    check_destination(destination)
    certificate = _certificate(source, chosen, wish.max_drop)
    with tempfile.TemporaryDirectory(prefix="adapass-") as scratch:
        contents = _contents(source, chosen, certificate, Path(scratch))
        folder = write_artifact(destination, contents)
    return Picked(folder, replace(chosen, is_default=True), certificate)


def choose(source: Artifact, wish: Wish) -> Point:
    """The point that the wish is for. See ``pick`` for the errors."""
    about, points = source.manifest, points_of(source.manifest)
    if about.kind is Kind.ORIGINAL:
        raise UsageError(
            f"{source.folder} hands the original back: nothing was certified, and there is nothing to pick; "
            "run `adapass optimize` with more data or a larger --max-drop"
        )
    if not points:
        raise UsageError(
            f"{source.folder} has no certified operating points to pick from: it was made without data, "
            "without a certificate, or by an older adapass"
        )
    if wish.point is not None:
        return find_point(about, wish.point, str(source.folder))
    if wish.max_drop is not None:
        kept = within([point.certified_drop for point in points], wish.max_drop)
        if not kept:
            raise BudgetError(f"nothing is certified at a drop of {wish.max_drop:g}; {_offer(points)}")
        return points[kept - 1]
    limit = wish.latency_seconds or 0.0
    fast = [point for point in points if point.seconds is not None and point.seconds <= limit]
    if not fast:
        raise BudgetError(f"no point takes at most {1e3 * limit:g} ms; {_offer(points)}")
    return fast[0]


def _offer(points: tuple[Point, ...]) -> str:
    def words(point: Point) -> str:
        time = "" if point.seconds is None else f" in {1e3 * point.seconds:.3f} ms ({point.trust})"
        return f"\n  {point.title}: drop {point.certified_drop:g}{time}"

    return f"the artifact is left alone; there is{''.join(words(point) for point in points)}"


def _destination(artifact: Path, point: Point, output: Path | None) -> Path:
    if output is None:
        return Path(f"{artifact.resolve().stem}-{point.name}.adapass")
    return output if output.suffix == ".adapass" else output.with_name(f"{output.name}.adapass")


def _certificate(source: Artifact, point: Point, max_drop: float | None) -> Certificate:
    stored = next(each for each in source.manifest.points if each.name == point.name)
    certificate = Certificate.from_dict(stored.certificate)
    if max_drop is None or max_drop >= certificate.max_drop:
        return certificate  # what passed at the tested budget is certified there, which says more
    return replace(
        certificate,
        max_drop=max_drop,
        p_value=stored.p_value,
        upper_bound=min(certificate.upper_bound, max_drop),
    )


def _contents(source: Artifact, point: Point, certificate: Certificate, scratch: Path) -> Contents:
    portable, built = scratch / "portable", scratch / "built"
    for name in (MODEL_FILE, *external_files(source.model_path)):
        copy_file(source.folder / name, portable / name)
    for name in _generated(source):
        copy_file(source.folder / name, built / name.removeprefix(f"{source.manifest.generator_folder}/"))
    knobs = knob_arrays(point.knobs)
    for model in sorted([portable / MODEL_FILE, *built.rglob("*.onnx")]):
        set_defaults(model, knobs)
    recipe = source.recipe()
    recipe.update({"max-drop": certificate.max_drop, "knobs": _recipe_knobs(point.knobs)})
    return Contents(
        description=_description(source.manifest, point, certificate),
        model=portable / MODEL_FILE,
        recipe=recipe,
        pareto=source.pareto(),
        generator_folder=None if source.manifest.generator is None else built,
    )


def _recipe_knobs(knobs: Mapping[str, tuple[float | None, ...]]) -> dict[str, object]:
    return {name: ["inf" if v is None else v for v in values] for name, values in knobs.items()}


def _generated(source: Artifact) -> tuple[str, ...]:
    """The generator's files; where it shares the folder, everything but what adapass writes itself."""
    folder = source.manifest.generator_folder
    if folder is None:
        return ()
    if folder == ".":
        return tuple(name for name in source.manifest.files if name not in RESERVED_FILES)
    return tuple(name for name in source.manifest.files if name.startswith(f"{folder}/"))


def _description(about: Description, point: Point, certificate: Certificate) -> Description:
    fields = {name: getattr(about, name) for name in Description.model_fields}
    quality = about.quality and about.quality.model_copy(update={"after": point.score})
    fields.update(
        certificate=cast("dict[str, JsonValue]", certificate.to_dict()),
        default_point=point.name,
        latency=_latency(about.latency, point),
        quality=quality,
        exits=point.exits,
    )
    return Description(**fields)


def _latency(latency: Latency | None, point: Point) -> Latency | None:
    if latency is None:
        return None
    return latency.model_copy(update={"after_seconds": point.seconds, "trust": point.trust})
