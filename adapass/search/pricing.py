"""What every static family offers, with what each choice alone saves and damages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from adapass.budgeted import BudgetedPass
from adapass.executor import TimeUpError
from adapass.search.evaluations import offered
from adapass.search.judge import spread_indices
from adapass.search.plan import tunes
from adapass.search.statics import StaticOption, companies, priced, priced_structural
from adapass.search.trials import Trials

STATICS_TIME_SHARE: Final = 0.5
"""Share of the time left that measuring the damage of one static family may take."""
FEW_SAMPLES: Final = 16
"""Samples that plans are fitted on which are only timed."""


def priced_families(
    trials: Trials, families: Sequence[BudgetedPass], *, sized: bool
) -> tuple[StaticOption, ...]:
    """Options of all families without knobs; a family whose damage takes too long is left out, and noted.

    Bytes are looked at where ``sized`` asks for it.

    Raises:
        TimeUpError: the deadline passed while choices were timed.

    """
    clean, evaluations = trials.evaluations.clean, trials.evaluations
    few = evaluations.fit.subset(list(spread_indices(len(evaluations.fit), FEW_SAMPLES)))
    options: list[StaticOption] = []
    deadline = trials.deadline.share(STATICS_TIME_SHARE)
    for step in families:
        choices = () if tunes(step) else offered(step, clean)
        if not choices:
            continue
        try:
            damages = evaluations.damages(step, choices, deadline)
        except TimeUpError:
            trials.notes.append(f"time limit: {step.name} was left out, its damage takes long to measure")
            continue
        usable = tuple(choice for choice in choices if np.isfinite(damages[choice.key].distortion))
        trials.deadline.check()
        if step.structural:
            options += priced_structural(clean, step, usable, damages, trials.seconds, fit=few)
            continue
        for company in companies(usable):
            options += priced(clean, step, company, damages, trials.seconds, fit=few, sized=sized)
    return tuple(options)
