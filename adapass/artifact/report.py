"""``report.html``: one file to read or to send on; loads nothing, runs nothing, escapes everything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from adapass.artifact.charts import Bar, Point, bars_svg, points_svg
from adapass.artifact.manifest import Description, Exits, Kind, Latency, Port, Quality, Trust
from adapass.artifact.points import points_of
from adapass.artifact.recipe_file import recipe_to_text

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}
body{color:#1b2733;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}
th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid #dde3e9;vertical-align:top}
pre{background:#f3f6f8;padding:1rem;overflow:auto}.warning{background:#fff3d6;padding:.5rem 1rem}
svg{font-size:13px;max-width:100%;height:auto}rect,circle{fill:#2f7fb8}text{fill:#1b2733}.axis{fill:none;stroke:#90a0ae}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_html(
    about: Description, recipe: Mapping[str, object], pareto: Sequence[Mapping[str, object]]
) -> str:
    """The report as one HTML page."""
    sections = [
        f"<h1>{escape(about.original.name)} on {escape(about.target)}</h1>",
        f"<p>{escape(_verdict(about))}</p>",
        *(f'<p class="warning">{escape(warning)}</p>' for warning in about.warnings),
        _section("Latency", _latency(about.latency)),
        _section("Quality", _quality(about.quality)),
        _section("Certificate", _certificate(about)),
        _section("Exits", _exits(about.exits)),
        _section("Operating points", _points(about)),
        _section("Plans tried", _pareto([entry for entry in pareto if entry.get("kind") != "step"])),
        _section("Certified step by step", _steps([e for e in pareto if e.get("kind") == "step"])),
        _section("Inputs and outputs", _ports(about)),
        _section("Made with", _table(("what", "value"), _made_with(about))),
        _section("Recipe", f"<pre>{escape(recipe_to_text(recipe))}</pre>"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(about.original.name)}: adapass report</title><style>{_STYLE}</style></head>\n"
        f"<body>{chr(10).join(part for part in sections if part)}</body></html>\n"
    )


def _verdict(about: Description) -> str:
    if about.kind is Kind.ORIGINAL:
        return "The original model is handed back unchanged: nothing faster was found within the budget."
    ratio = about.latency.ratio if about.latency else None
    trust = about.latency.trust if about.latency else None
    if ratio is None:
        return f"An optimized model for the task {about.task}."
    return f"The {trust} time is {ratio:.2f} of the original's. Task: {about.task}."


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}" if body else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "<p>Not measured.</p>"
    sides = (("original", latency.before_seconds), ("this artifact", latency.after_seconds))
    bars = [Bar(name, s, f"{s * 1e3:.3f} ms") for name, s in sides if s is not None]
    how = (
        "measured, original and artifact in turns"
        if latency.trust is Trust.MEASURED
        else "modelled, not measured"
    )
    device = f" on {latency.device}" if latency.device else ""
    threads = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"
    note = f"Per batch of {latency.batch}, {threads}{device}; {how}."
    return f"{bars_svg(bars, 'latency')}<p>{escape(note)}</p>"


def _quality(quality: Quality | None) -> str:
    if quality is None:
        return "<p>No data was given, so quality was not measured.</p>"
    row = (quality.metric, _number(quality.before), _number(quality.after), str(quality.samples))
    return _table(("metric", "original", "this artifact", "samples"), [row])


def _certificate(about: Description) -> str:
    if about.certificate is None:
        return "<p>None.</p>"
    rest = dict(about.certificate)
    statement = rest.pop("statement", None)
    words = f"<p>{escape(statement)}</p>" if isinstance(statement, str) else ""
    return words + _table(("field", "value"), [(key, _plain(value)) for key, value in sorted(rest.items())])


def _exits(exits: Exits | None) -> str:
    if exits is None:
        return ""
    last = len(exits.shares) - 1
    bars = [
        Bar("end of the model" if index == last else f"exit {index + 1}", share, f"{share:.1%}")
        for index, share in enumerate(exits.shares)
    ]
    depth = (
        "" if exits.mean_depth is None else f" On average {exits.mean_depth:.1%} of the model's work is done."
    )
    return f"{bars_svg(bars, 'share of samples by exit')}<p>Rule: {escape(exits.rule)}.{depth}</p>"


def _points(about: Description) -> str:
    """Measured or expected time against the drop that can be certified."""
    points = points_of(about)
    if not points:
        return ""
    drawn = [
        Point(point.seconds * 1e3, 100 * point.certified_drop, point.title)
        for point in points
        if point.seconds is not None
    ]
    labels = {"x_label": "time in ms", "y_label": "certified drop in points", "title": "operating points"}
    rows = [
        (
            point.title,
            f"{100 * point.certified_drop:.2f}",
            "" if point.loss is None else f"{100 * point.loss:+.2f}",
            "" if point.seconds is None else f"{1e3 * point.seconds:.3f}",
            str(point.trust),
            "" if point.ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*point.ratio),
            "" if point.exits is None else " ".join(f"{share:.0%}" for share in point.exits.shares),
            "yes" if point.is_default else "",
        )
        for point in points
    ]
    head = ("point", "certified drop", "loss seen", "ms", "", "of the original", "exits taken", "default")
    how = (
        "Switch with load_artifact(path, point=NAME), or make one the default with adapass pick. "
        "Drops are in points and hold with the confidence of the certificate for a budget settled beforehand."
    )
    return points_svg(drawn, **labels) + _table(head, rows) + f"<p>{escape(how)}</p>"


def _pareto(pareto: Sequence[Mapping[str, object]]) -> str:
    if not pareto:
        return ""
    points: list[Point] = []
    for entry in pareto:
        seconds, damage = _finite(entry.get("seconds")), _damage(entry)
        if seconds is not None and damage is not None:
            points.append(Point(seconds * 1e3, damage, str(entry.get("name") or _plain(dict(entry)))))
    chart = points_svg(points, x_label="time in ms", y_label="damage", title="plans tried") if points else ""
    return chart + _entries(pareto)


def _steps(steps: Sequence[Mapping[str, object]]) -> str:
    return _entries(steps) if steps else ""


def _entries(entries: Sequence[Mapping[str, object]]) -> str:
    """A table of everything in the entries but recipes, which are for programs, and what all have alike."""
    head = tuple(dict.fromkeys(key for entry in entries for key in entry if key not in {"recipe", "kind"}))
    return _table(head, [[_cell(entry.get(key)) for key in head] for entry in entries])


def _damage(entry: Mapping[str, object]) -> float | None:
    """The loss on the search samples, 0 for the original itself."""
    if entry.get("kind") == "original":
        return 0.0
    return _finite(entry.get("search_loss", entry.get("damage")))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else _plain(value)


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _ports(about: Description) -> str:
    def row(side: str, port: Port) -> tuple[str, ...]:
        shape = (
            "unknown"
            if port.shape is None
            else "[" + ", ".join("?" if d is None else str(d) for d in port.shape) + "]"
        )
        return (side, port.name, port.dtype, shape, "yes" if port.optional else "")

    rows = [*(row("input", p) for p in about.inputs), *(row("output", p) for p in about.outputs)]
    return _table(("", "name", "type", "shape", "has a default"), rows)


def _made_with(about: Description) -> list[tuple[str, str]]:
    rows = [("original", f"{about.original.name}, sha256 {about.original.sha256}")]
    if about.generator is not None:
        options = ", ".join(f"{key}={value}" for key, value in sorted(about.generator.options.items()))
        rows.append(
            ("generator", f"{about.generator.name}, {about.generator.variant} ({options or 'no options'})")
        )
    return [*rows, *sorted(about.tools.items())]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
