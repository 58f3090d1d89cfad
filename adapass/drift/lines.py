"""Read categories one a line: whole numbers, or JSON objects with an "exit". The lines are untrusted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Final, cast

from adapass.errors import DataError

MAX_LINE_BYTES: Final = 65_536
FIELD: Final = "exit"
_NUMBER = re.compile(rb"\d{1,9}")


def read_categories(stream: IO[bytes], categories: int, where: str) -> Iterator[int]:
    """One category a line, as the lines arrive; blank lines are passed over.

    Raises:
        DataError: a line that is too long, is no category below ``categories``, or lacks the field.

    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{where}, line {number}: longer than {MAX_LINE_BYTES:,} bytes; one exit a line expected"
            )
        if text := line.strip():
            yield _category(text, categories, f"{where}, line {number}")


def _category(text: bytes, categories: int, where: str) -> int:
    value = _field(text, where) if text.startswith(b"{") else int(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < categories:
        shown = text[:40].decode("utf-8", "replace")
        raise DataError(
            f"{where}: {shown!r} found; a whole number from 0 to {categories - 1}, or a JSON object with one "
            f"under '{FIELD}', expected"
        )
    return value


def _field(text: bytes, where: str) -> object:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    return cast("dict[str, object]", document).get(FIELD)
