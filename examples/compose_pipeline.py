"""Compose passes by hand: a pipeline is a value with a text form, verified after every pass."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import adapass
from adapass.observe import TimeEachPass

model = adapass.load(Path(str(files("adapass") / "assets" / "demo.onnx")))
pipeline = adapass.Pipeline.parse(
    "fold-constants,fold-batch-norm,merge-common-subexpressions,remove-dead-code"
)
timer = TimeEachPass()

result = pipeline.run(model, observers=[timer])

for step, counts, seconds in zip(pipeline.passes, result.results, timer.seconds, strict=True):
    declined = sum(counts.rejected.values())
    print(f"{step!s:32} applied {counts.applied:3}  declined {declined:3}  {seconds:.3f} s")
