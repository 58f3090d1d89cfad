"""How good predictions of latency are: errors, ranks, coverage; and the same for counts of operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """One configuration; seconds are those of a call."""

    model: str
    batch: int
    seed: str
    setup: str
    precision: str
    predicted: float
    low: float
    high: float
    flops: float
    measured_share: float
    """Share of the prediction in pieces that were measured, in other models, at their own sizes."""
    seconds_to_predict: float
    depth: float | None
    """Mean exit taken over the number of exits, on the trace."""
    seconds: float = float("nan")
    drift: float = 1.0
    """Of the clean model: its time beside this configuration over its time when the pieces were measured."""

    def measured(self, seconds: float, drift: float) -> Result:
        return replace(self, seconds=seconds, drift=drift)

    @property
    def steady(self) -> float:
        """Seconds, had the machine run as when the pieces were measured, on as long inputs."""
        return self.seconds / self.drift

    @property
    def error(self) -> float:
        """Relative, positive where the prediction is too high."""
        return self.predicted / self.steady - 1

    @property
    def raw_error(self) -> float:
        """The same with the drift of the machine counted as an error of the prediction."""
        return self.predicted / self.seconds - 1

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "error": self.error, "raw_error": self.raw_error}


def scores(results: Sequence[Result]) -> dict[str, object]:
    """The figures of all configurations, of each group, and of MACs."""
    groups: dict[str, object] = {}
    keys: tuple[Callable[[Result], str], ...] = (
        lambda r: r.model,
        lambda r: f"batch {r.batch}",
        lambda r: r.precision,
        lambda r: r.setup.partition("/")[0].partition(" ")[0],
    )
    for key in keys:
        for name in dict.fromkeys(map(key, results)):
            groups[name] = _figures([r for r in results if key(r) == name])
    return {"all": _figures(results), "groups": groups}


def _figures(results: Sequence[Result]) -> dict[str, float]:
    errors = np.abs([r.error for r in results])
    macs = np.abs(_mac_errors(results))
    raw = np.abs([r.raw_error for r in results])
    inside = [r.low <= r.steady <= r.high for r in results]
    return {
        "count": len(results),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.percentile(errors, 90)),
        "raw_median_error": float(np.median(raw)),
        "raw_p90_error": float(np.percentile(raw, 90)),
        "bias": float(np.median([r.error for r in results])),
        "rank_correlation": _rank_correlation(results, lambda r: r.predicted),
        "coverage": float(np.mean(inside)),
        "median_half_width": float(np.median([(r.high - r.low) / 2 / r.predicted for r in results])),
        "median_seconds_to_predict": float(np.median([r.seconds_to_predict for r in results])),
        "macs_median_error": float(np.median(macs)),
        "macs_p90_error": float(np.percentile(macs, 90)),
        "macs_rank_correlation": _rank_correlation(results, lambda r: r.flops),
    }


def _mac_errors(results: Sequence[Result]) -> Floats:
    """With the factor per model and batch size that suits these very configurations best."""
    errors = np.zeros(len(results))
    for cell in dict.fromkeys((r.model, r.batch) for r in results):
        places = [i for i, r in enumerate(results) if (r.model, r.batch) == cell]
        ratios = np.array([results[i].flops / results[i].steady for i in places])
        candidates = ratios / ratios[:, None] - 1
        errors[places] = candidates[int(np.argmin(np.median(np.abs(candidates), axis=1)))]
    return errors


def _rank_correlation(results: Sequence[Result], value: Callable[[Result], float]) -> float:
    """Spearman's, within each model and batch size, averaged: across those everything correlates."""
    found: list[float] = []
    for cell in dict.fromkeys((r.model, r.batch) for r in results):
        own = [r for r in results if (r.model, r.batch) == cell]
        if len(own) > 2:
            said, true = _ranks([value(r) for r in own]), _ranks([r.steady for r in own])
            found.append(float(np.corrcoef(said, true)[0, 1]))
    return float(np.mean(found)) if found else float("nan")


def _ranks(values: Sequence[float]) -> npt.NDArray[np.int64]:
    return np.argsort(np.argsort(np.asarray(values)))


def report(found: Mapping[str, object]) -> str:
    """The text to read."""
    rows = [("all", found["all"]), *cast("dict[str, object]", found["groups"]).items()]
    head = (
        f"{'':18}{'n':>4}{'median':>8}{'p90':>8}{'raw':>8}{'p90':>8}{'bias':>8}{'rank':>7}{'covered':>9}"
        f"{'+-':>7}{'MACs median':>13}{'p90':>8}{'rank':>7}"
    )
    lines = [head, *(_line(name, cast("dict[str, float]", figures)) for name, figures in rows), ""]
    configurations = cast("list[dict[str, object]]", found["configurations"])
    return "\n".join([*lines, *(_configuration(each) for each in configurations)])


def _line(name: str, f: Mapping[str, float]) -> str:
    return (
        f"{name:18}{f['count']:4.0f}{f['median_error']:8.1%}{f['p90_error']:8.1%}"
        f"{f['raw_median_error']:8.1%}{f['raw_p90_error']:8.1%}{f['bias']:+8.1%}"
        f"{f['rank_correlation']:7.3f}{f['coverage']:9.0%}{f['median_half_width']:7.1%}"
        f"{f['macs_median_error']:13.1%}{f['macs_p90_error']:8.1%}{f['macs_rank_correlation']:7.3f}"
    )


def _configuration(each: Mapping[str, object]) -> str:
    number = cast("Mapping[str, float]", each)
    return (
        f"{each['model']:18} batch {each['batch']:<3} {each['setup']:40}"
        f" predicted {1e3 * number['predicted']:8.3f} ms"
        f" measured {1e3 * number['seconds']:8.3f} ms, clean model at {number['drift']:.2f}x"
        f" {number['error']:+7.1%}"
        f"  {number['measured_share']:4.0%} in measured pieces"
    )
