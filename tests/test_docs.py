"""docs/passes.md is what the passes say about themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
WRITER = ROOT / "tools" / "write_pass_docs.py"


def _import_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_pass_docs", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not WRITER.is_file(), reason="needs a checkout: tools/ is not installed")
def test_the_page_of_passes_is_up_to_date() -> None:
    written = (ROOT / "docs" / "passes.md").read_text("utf-8")

    assert written == _import_writer().page(), "run `python tools/write_pass_docs.py`"
