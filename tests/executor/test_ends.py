"""No worker outlives its parent, however that ends. The parent is a script as a user would write it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PATIENCE_SECONDS = 60.0
# Without `if __name__ == "__main__"`: workers must not run the script again.
SCRIPT = """
import sys
from pathlib import Path

import numpy as np

from adapass.executor import LocalProcesses
from adapass.testing.jobs import Nap, nap

folder = Path(sys.argv[1])
executor = LocalProcesses(2)
(folder / "shared").write_text(str(executor.share(np.zeros(3)) and executor._files.path))
executor.map(nap, [Nap(folder / "pids", 60), Nap(folder / "pids", 60)])
"""


def start(tmp_path: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process], Path]:
    """The script, its two workers at work, and its folder of shared values."""
    (tmp_path / "pids").mkdir()
    with (tmp_path / "stderr").open("wb") as errors:
        parent = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=errors, start_new_session=True
        )
    until = time.monotonic() + PATIENCE_SECONDS
    while len(pids := [int(path.name) for path in (tmp_path / "pids").iterdir()]) < 2:
        if time.monotonic() > until:
            parent.kill()
            parent.wait()
            pytest.fail(f"no two workers after {PATIENCE_SECONDS} s: {(tmp_path / 'stderr').read_text()}")
        time.sleep(0.05)
    return parent, [psutil.Process(pid) for pid in pids], Path((tmp_path / "shared").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups that can be interrupted")
def test_an_interrupt_from_the_keyboard_ends_everything_with_one_traceback(tmp_path: Path) -> None:
    parent, workers, shared = start(tmp_path)

    os.killpg(parent.pid, signal.SIGINT)  # a terminal sends it to the whole group

    parent.wait(PATIENCE_SECONDS)
    _, alive = psutil.wait_procs(workers, PATIENCE_SECONDS)
    assert alive == []
    errors = (tmp_path / "stderr").read_text()
    assert errors.count("KeyboardInterrupt") == 1
    assert errors.count("Traceback") == 1
    assert not shared.exists()


def test_workers_of_a_killed_parent_leave_and_take_its_files_along(tmp_path: Path) -> None:
    parent, workers, shared = start(tmp_path)
    assert shared.is_dir()

    parent.kill()
    parent.wait(PATIENCE_SECONDS)

    _, alive = psutil.wait_procs(workers, PATIENCE_SECONDS)
    assert alive == []
    assert not shared.exists()
    assert (tmp_path / "stderr").read_text() == ""
