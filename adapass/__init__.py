"""adapass: a compiler for adaptive inference.

    result = adapass.optimize("model.onnx", data="fit.npz", max_drop=0.01)
    with adapass.load_artifact(result.artifact) as model:
        outputs = model.run({"image": image})

Importing the package imports nothing else: every public name is fetched when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapass.artifact.runtime import LoadedArtifact as LoadedArtifact
    from adapass.artifact.runtime import load_artifact as load_artifact
    from adapass.budgeted import BudgetedPass as BudgetedPass
    from adapass.budgeted import Choice as Choice
    from adapass.budgeted import Damage as Damage
    from adapass.budgeted import Knob as Knob
    from adapass.budgeted import OperatingPoint as OperatingPoint
    from adapass.budgeted import Proposal as Proposal
    from adapass.budgeted import Refusal as Refusal
    from adapass.budgeted import Samples as Samples
    from adapass.data import Dataset as Dataset
    from adapass.data import load_data as load_data
    from adapass.driver.analyze import Analysis as Analysis
    from adapass.driver.analyze import analyze as analyze
    from adapass.driver.optimize import optimize as optimize
    from adapass.driver.report import Report as Report
    from adapass.driver.report import Result as Result
    from adapass.errors import AdapassError as AdapassError
    from adapass.errors import ArtifactError as ArtifactError
    from adapass.errors import BudgetError as BudgetError
    from adapass.errors import DataError as DataError
    from adapass.errors import ExitCode as ExitCode
    from adapass.errors import InvalidInputError as InvalidInputError
    from adapass.errors import ModelError as ModelError
    from adapass.errors import RecipeError as RecipeError
    from adapass.errors import TargetError as TargetError
    from adapass.errors import TimeUpError as TimeUpError
    from adapass.errors import UsageError as UsageError
    from adapass.errors import VerificationError as VerificationError
    from adapass.errors import WorkerError as WorkerError
    from adapass.facts import Fact as Fact
    from adapass.facts import FactCache as FactCache
    from adapass.graph.load import load_model as load
    from adapass.graph.save import save_model as save
    from adapass.pipeline import Pipeline as Pipeline
    from adapass.rewrite import Exactness as Exactness
    from adapass.rewrite import Pass as Pass
    from adapass.rewrite import PassResult as PassResult
    from adapass.rewrite import Reject as Reject
    from adapass.rewrite import Replacement as Replacement
    from adapass.rewrite import Rewrite as Rewrite
    from adapass.target import Target as Target
    from adapass.target import load_target as load_target
    from adapass.trace import trace as trace

    __version__: str

__all__ = [
    "AdapassError",
    "Analysis",
    "ArtifactError",
    "BudgetError",
    "BudgetedPass",
    "Choice",
    "Damage",
    "DataError",
    "Dataset",
    "Exactness",
    "ExitCode",
    "Fact",
    "FactCache",
    "InvalidInputError",
    "Knob",
    "LoadedArtifact",
    "ModelError",
    "OperatingPoint",
    "Pass",
    "PassResult",
    "Pipeline",
    "Proposal",
    "RecipeError",
    "Refusal",
    "Reject",
    "Replacement",
    "Report",
    "Result",
    "Rewrite",
    "Samples",
    "Target",
    "TargetError",
    "TimeUpError",
    "UsageError",
    "VerificationError",
    "WorkerError",
    "__version__",
    "analyze",
    "load",
    "load_artifact",
    "load_data",
    "load_target",
    "optimize",
    "save",
    "trace",
]

_MODULES = MappingProxyType(
    {
        "adapass.artifact.runtime": ("LoadedArtifact", "load_artifact"),
        "adapass.budgeted": (
            "BudgetedPass",
            "Choice",
            "Damage",
            "Knob",
            "OperatingPoint",
            "Proposal",
            "Refusal",
            "Samples",
        ),
        "adapass.data": ("Dataset", "load_data"),
        "adapass.driver.analyze": ("Analysis", "analyze"),
        "adapass.driver.optimize": ("optimize",),
        "adapass.driver.report": ("Report", "Result"),
        "adapass.errors": (
            "AdapassError",
            "ArtifactError",
            "BudgetError",
            "DataError",
            "ExitCode",
            "InvalidInputError",
            "ModelError",
            "RecipeError",
            "TargetError",
            "TimeUpError",
            "UsageError",
            "VerificationError",
            "WorkerError",
        ),
        "adapass.facts": ("Fact", "FactCache"),
        "adapass.graph.load": ("load_model",),
        "adapass.graph.save": ("save_model",),
        "adapass.pipeline": ("Pipeline",),
        "adapass.rewrite": ("Exactness", "Pass", "PassResult", "Reject", "Replacement", "Rewrite"),
        "adapass.target": ("Target", "load_target"),
        "adapass.trace": ("trace",),
    }
)
_RENAMED = MappingProxyType({"load_model": "load", "save_model": "save"})
_PLACES = MappingProxyType(
    {_RENAMED.get(name, name): (module, name) for module, names in _MODULES.items() for name in names}
)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("adapass")
    if name not in _PLACES:
        raise AttributeError(f"module 'adapass' has no attribute '{name}'")
    module, attribute = _PLACES[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``adapass.trace`` the function when somebody imports the module of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
