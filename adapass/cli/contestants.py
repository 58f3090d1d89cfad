"""Things the command line can run: an ONNX file or an artifact, behind one face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapass.errors import UsageError

if TYPE_CHECKING:
    from adapass.artifact.manifest import Port
    from adapass.budgeted import Array
    from adapass.generator import Outcome

EXIT_COLUMN = "adapass_exit"


class Runnable:
    """A loaded ONNX file or artifact."""

    def __init__(self, path: Path, threads: int | None) -> None:
        from adapass.artifact import LoadedArtifact, load_artifact
        from adapass.artifact.plain import PlainRunner
        from adapass.artifact.runtime import usable_threads

        self.name = path.name
        self._loaded: LoadedArtifact | PlainRunner
        if path.is_dir():
            self._loaded = load_artifact(path, threads)
        elif path.is_file():
            self._loaded = PlainRunner(path, threads=threads or usable_threads())
        else:
            raise UsageError(f"{path} does not exist; expected an ONNX file or an artifact folder")
        self.inputs: tuple[Port, ...] = self._loaded.inputs

    def run(self, feeds: Mapping[str, Array]) -> Outcome:
        """Outputs and exits of one batch.

        Raises:
            DataError: the inputs do not fit.

        """
        import numpy as np

        from adapass.artifact import LoadedArtifact
        from adapass.artifact.runtime import checked_feeds
        from adapass.generator import Outcome

        if not isinstance(self._loaded, LoadedArtifact):
            return self._loaded.run(checked_feeds(feeds, self.inputs))
        outputs = self._loaded.run(feeds)
        exits = self._loaded.stats.exits
        return Outcome(outputs, None if exits is None else np.asarray(exits, np.int64))

    def close(self) -> None:
        self._loaded.close()


def onnx_file_of(path: Path) -> Path:
    """The portable ONNX file: the path itself, or the one in an artifact."""
    if not path.is_dir():
        return path
    from adapass.artifact import read_artifact

    return read_artifact(path).model_path
