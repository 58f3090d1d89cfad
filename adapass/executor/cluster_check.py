"""Whether the workers of a cluster would compute the same numbers as this process."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from adapass.errors import UsageError

logger = logging.getLogger(__name__)

FIRST_WORKER_SECONDS: Final = 5.0
"""How long a cluster without workers gets to find one."""
COMPARED: Final = ("adapass", "onnxruntime", "numpy")


def check_cluster(client: Any, address: str) -> Mapping[str, str]:
    """The versions that all have: this process, the scheduler and its workers.

    Raises:
        UsageError: there is no worker, or versions differ.

    """
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
    except TimeoutError as error:
        raise UsageError(
            f"the Dask scheduler at '{address}' has no workers; "
            f"start some with `dask worker {address} --nthreads 1`"
        ) from error
    here = local_versions()
    # Only functions of the standard library: whether adapass is there is what is asked.
    for name, wanted in here.items():
        ask = (platform.python_version,) if name == "python" else (version, name)
        found = client.run(*ask, on_error="return")
        if name == "adapass":  # the scheduler reads the tasks too
            found = {f"scheduler {address}": _on_scheduler(client), **found}
        _compare(name, wanted, found)
    _warn_of_other_machines(client)
    return here


def check_versions(wanted: Mapping[str, str]) -> None:
    """Compare this worker with the process that sent a task.

    Raises:
        UsageError: they differ.

    """
    for name, found in local_versions().items():
        _compare(name, wanted[name], {f"worker on {platform.node()}": found})


@cache
def local_versions() -> Mapping[str, str]:
    """Versions that decide numbers, of this process. Plain strings."""
    found = {name: _installed(name) for name in COMPARED}
    return {"python": platform.python_version(), **found}


def describe_machine() -> str:
    """The processor of this machine: its model and the instruction sets that kernels are chosen by."""
    from adapass.machine import read_processor

    processor = read_processor()
    return f"{processor.family} {processor.model} {' '.join(processor.isa)}"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _on_scheduler(client: Any) -> object:
    try:
        return client.run_on_scheduler(version, "adapass")
    except PackageNotFoundError as error:
        return error


def _compare(name: str, wanted: str, found: Mapping[str, object]) -> None:
    for where, there in found.items():
        if there == wanted:
            continue
        text = "not installed" if isinstance(there, PackageNotFoundError) else there
        raise UsageError(
            f"{name} is {text} at {where} and {wanted} here: results could differ; "
            "install the same versions everywhere"
        )


def _warn_of_other_machines(client: Any) -> None:
    here = describe_machine()
    others = sorted(where for where, there in client.run(describe_machine).items() if there != here)
    if others:
        logger.warning(
            "workers on another kind of processor (%s): the last bits of their results may differ",
            ", ".join(others),
        )
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threaded = sorted(where for where, worker in workers.items() if worker["nthreads"] > 1)
    if threaded:
        logger.warning(
            "workers with several threads (%s) still run one call at a time; start them with `--nthreads 1`",
            ", ".join(threaded),
        )
