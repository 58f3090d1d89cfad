"""The main job from Python, on the model that ships with adapass; then run the artifact."""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np

import adapass

assets = Path(str(files("adapass") / "assets"))
with tempfile.TemporaryDirectory() as folder:
    result = adapass.optimize(
        assets / "demo.onnx",
        data=assets / "demo_fit.npz",
        eval_data=assets / "demo_eval.npz",
        max_drop=0.02,
        mode="quick",
        output=Path(folder) / "demo.adapass",
    )
    for row in result.report.rows:
        print(f"{row.what:16} {row.before:>12} {row.after:>12}   {row.note}")
    print(*result.report.messages, result.reason, sep="\n")

    assert result.artifact is not None
    with np.load(assets / "demo_eval.npz") as data, adapass.load_artifact(result.artifact) as model:
        outputs = model.run({"image": data["image"][:8]})
        print("classes", outputs["logits"].argmax(axis=1), "labels", data["labels"][:8])
        print("exits taken", model.stats.exits)
