"""The results of ``benchmarks.architectures`` as text and as a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
HEAD = ("architecture", "nodes", "groups", "exact", "units", "cut", "refused", "prunable", "saved", "difference", "effect", "independent")  # fmt: skip  # noqa: E501

INTRODUCTION = """\
# Architectures

Which dimensions adapass finds that can be cut for real, and whether what remains computes the same.

Every architecture is built with random weights, narrow but true in its structure, exported with
`torch.onnx.export(dynamo=True)` with dynamic batch (and length), and cleaned as `adapass optimize` cleans
it. Then **every prunable group loses 30 % of its units, all groups at once**, and these must hold:

1. the ONNX checker and strict shape inference accept the result;
2. inputs and outputs are declared as before, and what was dynamic still is;
3. every stored tensor is exactly as small as promised;
4. at two batch sizes (and lengths) the outputs equal those of the original with the removed units masked,
   within 2e-4 of the output's root mean square (float32 rounding);
5. by a second reference that shares no code with the first they equal the original with the weights of
   the removed units set to zero: as it is for the groups called exact, and for all groups with
   normalisations that count only what stays.

*Prunable* is the share of the parameters that lies in some group; *saved* is what the cut took away;
*difference* the largest error of point 4, *effect* how far the masking itself moved the outputs (so that
equal numbers show something), *independent* the largest error of point 5.

Run it with `python -m benchmarks.architectures --cache FOLDER`.

"""


def table(rows: Sequence[Row]) -> str:
    """Fixed columns, what went wrong below, and a summary."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True)))  # noqa: E501
        for line in cells
    ]  # fmt: skip
    wrong = [f"{row['name']}: {problem}" for row in rows for problem in row["problems"]]
    return "\n".join([*lines, "", *wrong, *([""] if wrong else []), summary(rows)])


def summary(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if "groups" in row]
    cut = [row for row in judged if row["removed"]]
    whole = [row for row in rows if not row["problems"]]
    return (
        f"{len(rows)} architectures, {len(whole)} hold without a problem; "
        f"{len(cut)} with at least one group cut, {sum(row['groups'] for row in judged)} groups, "
        f"median prunable share {_median([row['prunable'] for row in judged]):.0%}"
    )


def page(rows: Sequence[Row]) -> str:
    """The documentation page: a table a family, concessions of the exporter, reasons of refusals."""
    parts = [INTRODUCTION, f"**{summary(rows)}.**\n"]
    for family in dict.fromkeys(row["family"] for row in rows):
        members = [row for row in rows if row["family"] == family]
        parts += [f"\n## {family[0].upper()}{family[1:]}\n", _markdown(members)]
    parts += ["\n## What the exporter could not do\n", *_notes(rows)]
    parts += ["\n## Reasons for refusing\n", *_refusals(rows)]
    return "\n".join(parts).rstrip() + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    if "groups" not in row:
        return (str(row["name"]), *["-"] * (len(HEAD) - 1))
    return (
        *(str(row["name"]), str(row["nodes"]), str(row["groups"]), str(row["exact"])),
        *(str(row["units"]), str(row["removed"]), str(sum(row["refusals"].values()))),
        *(f"{row['prunable']:.0%}", f"{row['saved']:.0%}"),
        *(f"{row['difference']:.0e}", f"{row['effect']:.0e}", f"{row['independent']:.0e}"),
    )


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join((*HEAD, "holds")) + " |", "|" + "---|" * (len(HEAD) + 1)]
    for row in rows:
        holds = "yes" if not row["problems"] else "; ".join(row["problems"]).replace("|", "/")
        lines.append("| " + " | ".join((*_cells(row), holds)) + " |")
    return "\n".join(lines)


def _notes(rows: Sequence[Row]) -> list[str]:
    found = [f"- {row['name']}: {note}" for row in rows for note in row.get("notes", ())]
    return found or ["Nothing: all dynamic dimensions, default attention."]


def _refusals(rows: Sequence[Row]) -> list[str]:
    counts: Counter[str] = Counter()
    where: dict[str, list[str]] = {}
    for row in rows:
        for reason, count in row.get("refusals", {}).items():
            counts[reason] += count
            where.setdefault(reason, []).append(row["name"])
    return [
        f"- {count} x {reason} ({', '.join(where[reason][:4])}{', ...' if len(where[reason]) > 4 else ''})"
        for reason, count in counts.most_common()
    ]


def _median(shares: Sequence[float]) -> float:
    return sorted(shares)[len(shares) // 2] if shares else 0.0
