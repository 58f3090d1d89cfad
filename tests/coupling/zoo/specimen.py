"""A model of the zoo, cleaned as the driver cleans it, with inputs to run it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.defaults import CLEAN
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.pipeline import Pipeline
from adapass.verification import usable_feeds
from tests.coupling.zoo.architecture import SIZES, feeds
from tests.coupling.zoo.catalogue import ARCHITECTURES, FAMILIES
from tests.coupling.zoo.export import exported
from tests.coupling.zoo.light import light_models, load_light

LIGHT = "light models of the onnx wheel"


@dataclass(frozen=True, slots=True)
class Specimen:
    model: ir.Model
    feeds: tuple[Feeds, ...]
    """Two of them; at two sizes of every dynamic dimension."""
    dynamic: tuple[str, ...]
    notes: tuple[str, ...]


def families() -> Mapping[str, tuple[str, ...]]:
    """The names of everything that is judged, by family."""
    own = {family: tuple(a.name for a in members) for family, members in FAMILIES.items()}
    return {**own, LIGHT: tuple(file.stem for file in light_models())}


def specimen(name: str, cache: Path) -> Specimen:
    """Export (unless ``cache`` has it) and clean.

    Raises:
        ExportFailedError: torch cannot export it.

    """
    for file in light_models():
        if file.stem == name:
            model = _clean(load_light(file))
            return Specimen(model, tuple(usable_feeds(model, cases=2)), (), ())
    architecture = ARCHITECTURES[name]
    export = exported(architecture, cache)
    model = _clean(load_model(export.file))
    sizes = [{**SIZES[0], **{word: size[word] for word in export.dynamic}} for size in SIZES]
    cases = tuple(feeds(architecture.ports, size, seed) for seed, size in enumerate(sizes))
    used = {value.name for value in model.graph.inputs}
    cases = tuple({key: array for key, array in case.items() if key in used} for case in cases)
    return Specimen(model, cases, export.dynamic, export.notes)


def cleaned(name: str, cache: Path) -> Path:
    """The clean model as a file beside the export, for looking at."""
    file = cache / f"{name}.clean.onnx"
    save_model(specimen(name, cache).model, file)
    return file


def _clean(model: ir.Model) -> ir.Model:
    # Its numbers are checked where the pipeline is tested.
    return Pipeline.parse(",".join(CLEAN)).run(model, verify=False).model
