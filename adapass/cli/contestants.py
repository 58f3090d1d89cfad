"""Things the command line can run: an ONNX file or an artifact, behind one face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapass.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapass.artifact.manifest import Port
    from adapass.budgeted import Array
    from adapass.generator import Outcome

EXIT_COLUMN = "adapass_exit"


class Runnable:
    """A loaded ONNX file or artifact."""

    def __init__(self, path: Path, threads: int | None, point: str | None = None) -> None:
        from adapass.artifact import LoadedArtifact, load_artifact
        from adapass.artifact.plain import PlainRunner
        from adapass.artifact.runtime import usable_threads

        self.name = path.name
        self._loaded: LoadedArtifact | PlainRunner
        if path.is_dir():
            self._loaded = load_artifact(path, threads, point=point)
        elif path.is_file():
            _refuse_point(path, point)
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


def portable_model(path: Path, point: str | None) -> ir.Model:
    """The portable model, of an artifact with ``point`` built in where one is given.

    Raises:
        UsageError: no such point, or a point of a plain file.

    """
    import onnx_ir as ir

    from adapass.artifact import find_point, read_artifact
    from adapass.artifact.points import knob_arrays
    from adapass.graph.load import load_model

    if not path.is_dir():
        _refuse_point(path, point)
        return load_model(path)
    artifact = read_artifact(path)
    model = load_model(artifact.model_path)
    knobs = {} if point is None else knob_arrays(find_point(artifact.manifest, point, str(path)).knobs)
    for name, value in knobs.items():
        model.graph.initializers[name].const_value = ir.tensor(value, name=name)
    return model


def _refuse_point(path: Path, point: str | None) -> None:
    if point is not None:
        raise UsageError(f"{path} is no artifact and has no operating points; leave --point out")


def onnx_file_of(path: Path) -> Path:
    """The portable ONNX file: the path itself, or the one in an artifact."""
    if not path.is_dir():
        return path
    from adapass.artifact import read_artifact

    return read_artifact(path).model_path
