"""Rebuild .pkg/adapass: links that show type checkers the layout users install."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAPPED = ("passes", "codegen", "targets")

tree = ROOT / ".pkg" / "adapass"
shutil.rmtree(tree, ignore_errors=True)
tree.mkdir(parents=True)
core = [path for path in (ROOT / "adapass").iterdir() if path.name != "__pycache__"]
for path in [*core, *(ROOT / name for name in MAPPED)]:
    (tree / path.name).symlink_to(Path("..", "..", path.relative_to(ROOT)))
