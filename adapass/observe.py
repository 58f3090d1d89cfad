"""Observers: timing, dumps, traces and progress watch a pipeline; none of that is pipeline code."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from adapass.graph.text import to_text
from adapass.progress import Progress
from adapass.rewrite import Pass, PassResult
from adapass.verification import Comparison

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of a run."""

    index: int
    total: int
    step: Pass


class Observer:
    """Override what you want to see. Models handed over must not be changed."""

    def before(self, step: Step, model: ir.Model) -> None:
        del step, model

    def after(self, step: Step, model: ir.Model, result: PassResult) -> None:
        """The pass ran; nothing has been checked yet."""
        del step, model, result

    def checked(self, step: Step, comparison: Comparison | None) -> None:
        """The pass is verified; ``comparison`` is None when the pass changed nothing."""
        del step, comparison


@dataclass
class TimeEachPass(Observer):
    """Wall time of each pass without its verification, in seconds, by position in the pipeline."""

    clock: Callable[[], float] = time.perf_counter
    seconds: list[float] = field(default_factory=list[float])
    _started: float = 0.0

    def before(self, step: Step, model: ir.Model) -> None:
        del step, model
        self._started = self.clock()

    def after(self, step: Step, model: ir.Model, result: PassResult) -> None:
        del step, model, result
        self.seconds.append(self.clock() - self._started)


@dataclass
class DumpText(Observer):
    """Write the ONNX text before the first pass and after every pass that changed something."""

    folder: Path

    def before(self, step: Step, model: ir.Model) -> None:
        if step.index == 0:
            self._write("00-input", model)

    def after(self, step: Step, model: ir.Model, result: PassResult) -> None:
        if result.changed:
            self._write(f"{step.index + 1:02d}-{step.step.name}", model)

    def _write(self, name: str, model: ir.Model) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.onnxtxt").write_text(to_text(model))


@dataclass
class ShowProgress(Observer):
    """Report each finished pass as one step."""

    progress: Progress

    def checked(self, step: Step, comparison: Comparison | None) -> None:
        del comparison
        self.progress.step(step.index + 1, step.total, step.step.name)


class LogCounts(Observer):
    """One info line a pass: how often it applied and why it declined."""

    def after(self, step: Step, model: ir.Model, result: PassResult) -> None:
        del model
        declined = ", ".join(f"{count}x {reason}" for reason, count in sorted(result.rejected.items()))
        logger.info(
            "%s: applied %d%s", step.step, result.applied, f"; declined {declined}" if declined else ""
        )
