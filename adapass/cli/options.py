"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from adapass.errors import UsageError

Quiet = Annotated[
    int,
    typer.Option(
        "--quiet",
        "-q",
        count=True,
        show_default=False,
        help="No progress and no warnings on stderr, errors only.",
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="More on stderr; twice: everything, and tracebacks.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table on stdout.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random; the same seed gives the same result.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of the whole process.", show_default="all cores of this process"),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="An .npz file with arrays named like the model's inputs (and 'labels' where known), a folder of "
        "such files, or package.module:function with --allow-code.",
        show_default="generated inputs",
    ),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Allow --data and --eval to name Python functions.")
]
PointName = Annotated[
    str | None,
    typer.Option(
        "--point",
        metavar="NAME",
        help="Certified operating point of an artifact: safe, balanced, fast, p0, ...",
        show_default="what it ships with",
    ),
]
Model = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL.onnx")]

_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|h)?\s*")
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*")
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | None, option: str) -> float | None:
    """A duration like ``3ms`` or ``10m``; a bare number is seconds.

    Raises:
        UsageError: it is not a duration, or not above zero.

    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    value = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if value <= 0:
        raise UsageError(f"{option} is '{text}', expected a duration above zero such as 3ms, 90s, 10m or 2h")
    return value


def size_bytes(text: str, option: str) -> int:
    """A size like ``20MB`` or ``512KiB``; a bare number is bytes.

    Raises:
        UsageError: it is not a size, or not above zero.

    """
    match = _SIZE.fullmatch(text)
    value = float(match[1]) * _BYTES[match[2] or "B"] if match else 0.0
    if value < 1:
        raise UsageError(f"{option} is '{text}', expected a size above zero such as 20MB, 1.5GB or 512KiB")
    return int(value)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, each at least 1.

    Raises:
        UsageError: something else was found.

    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} is '{text}', expected whole numbers above zero such as 1,8,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


def words(texts: list[str] | None) -> tuple[str, ...]:
    """Names from an option that may be repeated and may hold several names separated by commas."""
    return tuple(name for text in texts or () for name in (part.strip() for part in text.split(",")) if name)
