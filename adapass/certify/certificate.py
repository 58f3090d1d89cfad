"""The certificate as it goes into an artifact: what is promised, and everything needed to judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from adapass.certify.bounds import Method, check_budget, method_for, upper_bound
from adapass.certify.losses import Losses, Metric
from adapass.certify.sequence import Verdict
from adapass.errors import ArtifactError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """With ``confidence``, the population the samples were drawn from loses less than ``max_drop``."""

    max_drop: float
    confidence: float
    samples: int
    metric: Metric
    method: Method
    estimate: float
    """Mean loss on the certify samples: the point estimate, which is not what is promised."""
    upper_bound: float
    """What the same test would have ruled out for this candidate alone; for information."""
    worse: int
    """Samples on which the result is worse than the original."""
    better: int
    p_value: float
    position: int
    """Which of the tested candidates this is, 0 = safest."""
    tested: int
    """How many hypotheses were tested, in a fixed order."""
    split_seed: int
    data: str
    """Fingerprint of the certify samples."""

    @property
    def labelled(self) -> bool:
        return self.metric.needs_labels

    @property
    def statement(self) -> str:
        """The promise in one sentence."""
        level = f"{self.confidence * 100:.6g} % confidence"
        size = f"n = {self.samples:,}"
        return f"{_promise(self.metric, self.max_drop)} with {level} ({size}, {self.method} test)"

    def to_dict(self) -> dict[str, object]:
        """JSON values only; the statement is included for readers and ignored when read back."""
        return {
            **asdict(self),
            "metric": str(self.metric),
            "method": str(self.method),
            "statement": self.statement,
        }

    @staticmethod
    def from_dict(entries: Mapping[str, object]) -> Certificate:
        """Read what ``to_dict`` wrote.

        Raises:
            ArtifactError: an entry is missing or has the wrong type.

        """
        number, whole, text = _number(entries), _whole(entries), _text(entries)
        try:
            metric, method = Metric(text("metric")), Method(text("method"))
        except ValueError as error:
            raise ArtifactError(f"certificate: {error}; written by a newer adapass?") from error
        return Certificate(
            max_drop=number("max_drop"),
            confidence=number("confidence"),
            samples=whole("samples"),
            metric=metric,
            method=method,
            estimate=number("estimate"),
            upper_bound=number("upper_bound"),
            worse=whole("worse"),
            better=whole("better"),
            p_value=number("p_value"),
            position=whole("position"),
            tested=whole("tested"),
            split_seed=whole("split_seed"),
            data=text("data"),
        )


def _number(entries: Mapping[str, object]) -> Callable[[str], float]:
    def read(name: str) -> float:
        value = entries.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArtifactError(f"certificate: entry '{name}' is {value!r}; a number expected")
        return float(value)

    return read


def _whole(entries: Mapping[str, object]) -> Callable[[str], int]:
    def read(name: str) -> int:
        value = entries.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ArtifactError(f"certificate: entry '{name}' is {value!r}; a whole number expected")
        return value

    return read


def _text(entries: Mapping[str, object]) -> Callable[[str], str]:
    def read(name: str) -> str:
        value = entries.get(name)
        if not isinstance(value, str):
            raise ArtifactError(f"certificate: entry '{name}' is {value!r}; a text expected")
        return value

    return read


_WORDS = {
    Metric.ACCURACY: "accuracy drop at most {points}",
    Metric.AGREEMENT: "answer differs from the original's on at most {percent} of samples",
    Metric.MULTI_LABEL_ACCURACY: "accuracy of marks drops by at most {points}",
    Metric.MULTI_LABEL_AGREEMENT: "marks differ from the original's on at most {percent} of marks",
    Metric.TOKEN_ACCURACY: "token accuracy, averaged over samples, drops by at most {points}",
    Metric.TOKEN_AGREEMENT: "classes differ from the original's on at most {percent} of a sample's tokens",
    Metric.ERROR: "mean error grows by at most {percent} of the scale",
    Metric.DEVIATION: "mean deviation from the original at most {percent} of the scale",
    Metric.COSINE: "mean half cosine distance to the original at most {share}",
}


def _promise(metric: Metric, max_drop: float) -> str:
    number = f"{100 * max_drop:.4g}"
    number = number if "." in number else f"{number}.0"
    unit = "point" if number == "1.0" else "points"
    return _WORDS[metric].format(points=f"{number} {unit}", percent=f"{number} %", share=f"{max_drop:.4g}")


def issue(
    losses: Losses,
    verdict: Verdict,
    *,
    position: int,
    max_drop: float,
    confidence: float,
    split_seed: int,
    data: str,
) -> Certificate:
    """The certificate of candidate ``position`` of a tested sequence.

    Raises:
        UsageError: that candidate did not pass.

    """
    check_budget(max_drop, confidence)
    if not 0 <= position < verdict.passed:
        raise UsageError(
            f"candidate {position} is not certified; "
            f"the first {verdict.passed} of {len(verdict.p_values)} tested have passed"
        )
    return Certificate(
        max_drop=max_drop,
        confidence=confidence,
        samples=len(losses),
        metric=losses.metric,
        method=method_for(losses.metric),
        estimate=losses.mean,
        upper_bound=min(upper_bound(losses, confidence), max_drop),
        worse=losses.worse,
        better=losses.better,
        p_value=verdict.p_values[position],
        position=position,
        tested=len(verdict.p_values),
        split_seed=split_seed,
        data=data,
    )
