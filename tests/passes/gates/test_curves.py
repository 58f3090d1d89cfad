"""Contributions are slopes of the result, and curves say what leaving tokens out damages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.moments.batches import Batches
from adapass.passes.gates.contributions import Probe, fitted_scores, share_input, slopes
from adapass.passes.gates.curves import Curve, Sign, skipping_curves
from adapass.passes.prune.remove_unread_positions import RemoveUnreadPositions
from tests.passes.gates.nets import LONGEST, Texts, transformer

Doubles = npt.NDArray[np.float64]
TEXTS = Texts()
STEP = 1e-2


@pytest.mark.parametrize("head", ["first", "mean"])
def test_contributions_are_slopes(head: str) -> None:
    model = transformer(head=head, classes=1)
    probe = Probe.of(model, FactCache(model))
    session = Session(probe.model)
    data = Texts(count=3, fixed=5)
    found = next(iter(slopes(probe, Batches.of(model, data))))

    for site, contributions in found.contributions.items():
        whole = {share_input(row.site): np.ones((1, 1, 1), np.float32) for row in probe.rows}
        for sample in range(3):
            slope = np.zeros(5)
            for token in range(5):
                share = np.ones((1, 5, 1), np.float32)
                ends: list[float] = []
                for change in (-STEP, STEP):
                    share[0, token] = 1 + change
                    feeds = {**data.feeds(sample), **whole, share_input(site): share}
                    ends.append(float(session.run(feeds)["y"][0, 0]))
                slope[token] = abs(ends[1] - ends[0]) / (2 * STEP)
            factor = contributions[sample].sum() / slope.sum()  # of the direction that was drawn
            np.testing.assert_allclose(contributions[sample], factor * slope, rtol=0.05, atol=2e-2)


def test_nobody_looks_at_the_others_in_the_last_layer() -> None:
    model = transformer(head="first")
    probe = Probe.of(model, FactCache(model))
    found = next(iter(slopes(probe, Batches.of(model, Texts(fixed=LONGEST)))))

    last = found.contributions["ffn2_2_p"]

    assert (last[:, 0] > 0).all()
    assert not last[:, 1:].any()


def test_scores_are_fitted_once() -> None:
    model = transformer()
    first = fitted_scores(model, TEXTS, count=20, damping=0.1)

    assert fitted_scores(clone(model), TEXTS, count=20, damping=0.1) is first
    assert fitted_scores(model, TEXTS, count=20, damping=0.2) is not first
    assert fitted_scores(model, TEXTS, count=21, damping=0.1) is not first
    assert fitted_scores(transformer(layers=1), TEXTS, count=20, damping=0.1) is not first


def test_the_fourth_root_of_contributions_is_fitted() -> None:
    model = transformer(head="mean", layers=1)
    probe = Probe.of(model, FactCache(model))
    xs: list[Doubles] = []
    ys: list[Doubles] = []
    batches = Batches.of(model, TEXTS, size=16, count=30)
    for found in slopes(probe, batches):
        xs.append(found.streams["ffn1_2_p"].reshape(-1, 8))
        ys.append(found.contributions["ffn1_2_p"].reshape(-1))
    x, y = np.concatenate(xs), np.concatenate(ys) ** 0.25
    z = (x - x.mean(0)) / x.std(0)

    weights = fitted_scores(model, TEXTS, count=30, damping=0.1)["ffn1_2_p"] * x.std(0)

    pulled = (z.T @ z) @ weights / len(z) + 0.1 * weights
    np.testing.assert_allclose(pulled, z.T @ (y - y.mean()) / len(z), rtol=1e-6, atol=1e-9)


def curve(found: tuple[Curve, ...], sign: Sign, site: str | None) -> Curve:
    return next(each for each in found if each.sign is sign and each.site == site)


def test_curves() -> None:
    model = transformer(head="mean", layers=3)
    found = skipping_curves(model, FactCache(model), TEXTS, Texts(count=40, fixed=LONGEST))

    oracle, learned = (curve(found, sign, None) for sign in (Sign.ORACLE, Sign.LEARNED))
    assert [point.skipped for point in oracle.points] == pytest.approx([0.25, 0.5, 0.75], abs=0.01)
    assert oracle.points[1].damage.distortion < learned.points[1].damage.distortion
    assert 0 < oracle.points[0].damage.distortion < oracle.points[2].damage.distortion
    assert oracle.points[0].agreement is not None
    sites = {(each.sign, each.site) for each in found}
    assert (Sign.SATURATION, "ffn1_2_p") not in sites  # nothing before it
    assert (Sign.SATURATION, "ffn2_2_p") in sites
    assert len(sites) == len(found) == 3 + 3 + 2 + 3


def test_a_token_that_is_read_stays_and_padding_does_not_count() -> None:
    model = transformer(head="first")
    found = skipping_curves(
        model, FactCache(model), TEXTS, TEXTS, signs=[Sign.ORACLE], fractions=[1.0], apart=False
    )
    tokens = sum(TEXTS.length(index) for index in range(len(TEXTS)))

    assert found[0].points[0].skipped == pytest.approx(1 - len(TEXTS) / tokens)


def test_of_one_position_there_is_nothing_to_tell() -> None:
    model = transformer(head="first", layers=1)
    RemoveUnreadPositions().run(model, FactCache(model))

    assert skipping_curves(model, FactCache(model), TEXTS, TEXTS) == ()


def test_results_for_tokens_have_no_classes() -> None:
    model = transformer(head="tokens", layers=1)
    found = skipping_curves(model, FactCache(model), TEXTS, TEXTS, signs=[Sign.LEARNED], fractions=[0.5])

    assert found[0].points[0].damage.distortion > 0
