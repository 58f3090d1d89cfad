"""What a run works on: the model, its target, and the data in three disjoint parts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from adapass.artifact.runtime import usable_threads
from adapass.budgeted import Feeds
from adapass.data import Dataset, Source, fingerprint, load_data, overlap, split_by_hash, without
from adapass.driver.agreement import disagreement
from adapass.driver.request import Request
from adapass.errors import DataError, UsageError
from adapass.generator import Generator
from adapass.graph.load import load_model, normalize
from adapass.graph.save import save_model
from adapass.registry import generator, generator_names
from adapass.search.judge import spread_indices
from adapass.target import Target, load_target
from adapass.verification import usable_feeds

logger = logging.getLogger(__name__)

ModelSource = str | Path | ir.Model

WITH_EVAL = {"search": 0.4, "certify": 0.6}
WITHOUT_EVAL = {"fit": 0.4, "search": 0.25, "certify": 0.35}
REFERENCE = "onnxruntime"
"""What the generators are compared with runs in it."""
ONLY_BY_NAME = frozenset({"tvm"})
"""Generators that ``--backend auto`` leaves out: each build takes many seconds."""
CASES = 4
"""Generated inputs, where there is no data."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Disjoint by content. Fit sees everything it likes, search chooses, certify is touched once."""

    fit: Dataset
    search: Dataset
    certify: Dataset
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return "|".join(fingerprint(part) for part in (self.fit, self.search, self.certify))


@dataclass(frozen=True, slots=True)
class Material:
    """Everything read and checked, before any work."""

    path: Path
    """The original model file: the baseline of every comparison."""
    model: ir.Model
    target: Target
    generators: tuple[Generator, ...]
    parts: Parts | None


def gather(
    model: ModelSource, request: Request, data: Source | None, eval_data: Source | None, scratch: Path
) -> Material:
    """Read and check everything the request names.

    Raises:
        InvalidInputError: model, data or options are wrong.
        TargetError: the target is unknown.

    """
    path = _as_file(model, scratch)
    loaded = load_model(path)
    target = load_target(request.target)
    parts = _parts(loaded, request, data, eval_data)
    return Material(path, loaded, target, _generators(request, loaded, target, parts), parts)


def timing_feeds(material: Material, request: Request, wanted: int) -> list[Feeds]:
    """Inputs to measure with, at the asked batch size and the length mix of the search data."""
    if material.parts is None:
        return usable_feeds(material.model, seed=request.seed, cases=min(wanted, CASES))
    search = material.parts.search
    if request.batch == 1:
        return [search.feeds(i) for i in spread_indices(len(search), wanted)]
    count = max(2, wanted // request.batch)
    if len(search) < request.batch:
        raise DataError(
            f"{len(search)} search samples are fewer than one batch of {request.batch}; give more data"
        )
    starts = spread_indices(len(search) - request.batch + 1, count)
    return [search.batch(range(start, start + request.batch)) for start in starts]


def default_threads(threads: int | None) -> int:
    return usable_threads() if threads is None else threads


def _as_file(model: ModelSource, scratch: Path) -> Path:
    if not isinstance(model, ir.Model):
        return Path(model)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    save_model(normalize(model), folder / "model.onnx")
    return folder / "model.onnx"


def _generators(
    request: Request, model: ir.Model, target: Target, parts: Parts | None
) -> tuple[Generator, ...]:
    automatic = [name for name in generator_names() if name not in ONLY_BY_NAME]
    names: Sequence[str] = automatic if request.backend == "auto" else (request.backend,)
    refused: list[str] = []
    found: list[Generator] = []
    for name in names:
        candidate = generator(name)
        if reasons := _reasons_against(candidate, request, model, target, parts):
            refused.append(f"{name}: {'; '.join(reasons)}")
            logger.info("backend %s is left out: %s", name, "; ".join(reasons))
        else:
            found.append(candidate)
    if not found:
        raise UsageError(f"no backend can build this model for {target.name}. {' | '.join(refused)}")
    return tuple(found)


def _reasons_against(
    candidate: Generator, request: Request, model: ir.Model, target: Target, parts: Parts | None
) -> tuple[str, ...]:
    if (missing := candidate.available()) is not None:
        return (missing,)
    if reasons := candidate.supports(model, target).reasons:
        return reasons
    if candidate.name == REFERENCE or not candidate.device_present(target):
        return ()
    if parts is None:
        feeds = usable_feeds(model, seed=request.seed, cases=CASES)
    else:
        feeds = [parts.search.feeds(index) for index in spread_indices(len(parts.search), CASES)]
    wrong = disagreement(candidate, model, target, feeds, threads=request.threads)
    return () if wrong is None else (wrong,)


def _parts(model: ir.Model, request: Request, data: Source | None, eval_data: Source | None) -> Parts | None:
    if data is None and eval_data is None:
        return None
    if data is None:
        raise UsageError(
            "--eval was given without --data: fitting needs data of its own; give both, or --data alone"
        )
    fit = load_data(data, model, allow_code=request.allow_code)
    if fit.synthetic and eval_data is None:
        raise UsageError(
            f"{fit.source}: there is no certificate on samples that were made from the model; "
            "fit on them and give real data with --eval"
        )
    if eval_data is None:
        split = split_by_hash(fit, WITHOUT_EVAL, seed=request.seed)
        return Parts(split["fit"], split["search"], split["certify"])
    held_out = load_data(eval_data, model, allow_code=request.allow_code)
    if held_out.synthetic:
        raise UsageError(f"{held_out.source}: there is no certificate on them; give real data with --eval")
    shared = overlap(held_out, fit)
    rest = without(held_out, fit) if shared else held_out
    if len(rest) < 2:
        raise DataError(
            f"{shared} of {len(held_out)} evaluation samples are also in the fit data; give others"
        )
    split = split_by_hash(rest, WITH_EVAL, seed=request.seed)
    notes = (f"{shared} evaluation samples are also in the fit data and were left out",) if shared else ()
    if fit.synthetic:
        notes = (*notes, f"fitted on {fit.source}; chosen and certified on real ones")
    return Parts(fit, split["search"], split["certify"], notes)
