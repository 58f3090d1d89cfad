"""Measured rounds over settings: never worse than the best start, better where errors meet; refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from adapass.errors import BudgetError, UsageError
from adapass.search.allocate import minimize_damage
from adapass.search.allocate_measured import Change, Keys, least_measured
from adapass.search.allocate_problem import Option, Problem

SETTINGS = {
    "tiny": (-30.0, 0.4),
    "less": (-27.0, 0.2),
    "small": (-24.0, 0.1),
    "more": (-20.0, 0.02),
    "half": (-16.0, 0.001),
}
"""Bytes and error of an even site."""


class Coupled:
    """Sites whose errors meet: damage is quadratic in the vector of errors."""

    def __init__(self, sites: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.sites = [f"site {i}" for i in range(sites)]
        self.weights = rng.uniform(0.3, 3.0, sites)
        mixed = rng.normal(size=(sites, sites))
        self.meets = mixed @ mixed.T / sites + np.diag(rng.uniform(0.1, 1.0, sites))

    def whole(self, plan: Keys) -> float:
        errors = [self._error(index, plan) for index in range(len(self.sites))]
        return float(np.array(errors) @ self.meets @ np.array(errors))

    def _error(self, index: int, plan: Keys) -> float:
        own = [key.split("=")[1] for key in plan if key.startswith(f"{self.sites[index]}=")]
        return float(SETTINGS[own[0]][1] * self.weights[index]) if own else 0.0

    def beside(self, plan: Keys, changes: Sequence[Change]) -> list[float]:
        now = self.whole(plan)
        return [self.whole(exchanged(plan, site, key)) - now for site, key in changes]

    @property
    def options(self) -> list[Option]:
        return [
            Option(f"{site}={name}", site, 0.0, self.whole(frozenset([f"{site}={name}"])), {"bytes": size})
            for site in self.sites
            for name, (size, _) in SETTINGS.items()
        ]

    def everywhere(self, name: str) -> Keys:
        return frozenset(f"{site}={name}" for site in self.sites)


def exchanged(plan: Keys, site: str, key: str | None) -> Keys:
    kept = frozenset(each for each in plan if not each.startswith(f"{site}="))
    return kept if key is None else kept | {key}


def used(plan: Keys) -> float:
    return sum(SETTINGS[key.split("=")[1]][0] for key in plan)


@pytest.mark.parametrize("seed", range(3))
def test_rounds_get_ever_better_and_keep_the_limit(seed: int) -> None:
    problem = Coupled(12, seed)
    limits = {"bytes": -12 * 24.0}
    uniform = problem.everywhere("small")
    planned = minimize_damage(Problem(tuple(problem.options)), min_saving=-np.inf, limits=limits).chosen
    starts = [frozenset(planned), uniform]

    found = least_measured(problem.options, limits, starts, whole=problem.whole, beside=problem.beside)

    assert used(found.chosen) <= limits["bytes"]
    assert found.history[0] == min(problem.whole(start) for start in starts)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.damage == problem.whole(found.chosen) == found.history[-1]
    again = least_measured(problem.options[::-1], limits, starts, whole=problem.whole, beside=problem.beside)
    assert again == found


def test_rounds_find_what_single_damages_do_not_show() -> None:
    gained: list[float] = []
    for seed in range(6):
        problem = Coupled(12, seed)
        limits = {"bytes": -12 * 24.0}
        planned = minimize_damage(Problem(tuple(problem.options)), min_saving=-np.inf, limits=limits).chosen
        start = frozenset(planned)

        found = least_measured(problem.options, limits, [start], whole=problem.whole, beside=problem.beside)

        gained.append(1.0 - found.damage / problem.whole(start))
    assert min(gained) >= 0.0
    assert float(np.mean(gained)) > 0.02


def test_a_site_may_be_left_as_it_was() -> None:
    problem = Coupled(6)
    problem.weights[2] = 1e3
    limits = {"bytes": -5 * 24.0}

    found = least_measured(
        problem.options,
        limits,
        [problem.everywhere("small")],
        whole=problem.whole,
        beside=problem.beside,
        rounds=6,
    )

    assert not any(key.startswith("site 2=") for key in found.chosen)
    assert used(found.chosen) <= limits["bytes"]


def test_what_only_suits_the_probes_is_not_taken() -> None:
    problem = Coupled(6)

    found = least_measured(
        problem.options,
        {"bytes": -6 * 24.0},
        [problem.everywhere("small")],
        whole=lambda plan: 0.0 if plan == problem.everywhere("small") else 1.0,
        beside=problem.beside,
    )

    assert found.chosen == problem.everywhere("small")
    assert found.history == (0.0,)


def test_starts_that_are_too_large_are_left_out() -> None:
    problem = Coupled(3)
    starts = [problem.everywhere("half"), problem.everywhere("tiny")]

    found = least_measured(
        problem.options, {"bytes": -85.0}, starts, whole=problem.whole, beside=problem.beside, rounds=0
    )

    assert found.chosen == starts[1]


@pytest.mark.parametrize(
    ("limits", "starts", "error", "message"),
    [
        pytest.param({}, [()], UsageError, "no resource is limited", id="no-limit"),
        pytest.param({"bytes": -1.0}, [], UsageError, "no plan to start from was given", id="no-start"),
        pytest.param(
            {"bytes": -1.0},
            [("site 0=tiny", "site 0=half")],
            UsageError,
            "two settings of a slot",
            id="two-settings",
        ),
        pytest.param(
            {"bytes": -1.0}, [("site 0=huge",)], UsageError, "has the key 'site 0=huge'", id="unknown-key"
        ),
        pytest.param(
            {"bytes": -99.0}, [("site 0=tiny",)], BudgetError, "keeps the limits {'bytes': -99.0}", id="size"
        ),
    ],
)
def test_refuses(
    limits: dict[str, float], starts: list[tuple[str, ...]], error: type[Exception], message: str
) -> None:
    problem = Coupled(2)

    with pytest.raises(error, match=message):
        least_measured(problem.options, limits, starts, whole=problem.whole, beside=problem.beside)
