"""prune-tokens: learned scores and thresholds, and how much work is counted to be left."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.errors import DataError, UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.constants import constant_array
from adapass.graph.text import clone
from adapass.passes.tokens.prune_tokens import PruneTokens
from adapass.passes.tokens.refit import row_products
from adapass.passes.tokens.surgery import records
from tests.passes.tokens.nets import LONGEST, Net, Texts
from tests.passes.tokens.reference import assert_close

Doubles = npt.NDArray[np.float64]

STEP = PruneTokens(settings=("learned-0.5", "threshold-0.4", "keep-0.5", "mass-0.7"), damping=1e-3)
BERT = Net()
VIT = Net(post_norm=False, masked=False, length=9)


def open_model(net: Net, setting: str, site: str = "x0") -> ir.Model:
    model = net.model()
    STEP.apply(model, FactCache(model), [Choice(STEP.name, site, setting)])
    return model


def fitted(net: Net, setting: str, site: str = "x0") -> ir.Model:
    model = open_model(net, setting, site)
    STEP.fit(model, Texts(masked=net.masked, length=net.length))
    check_structure(model)
    return model


def weights_of(model: ir.Model) -> tuple[Doubles, float]:
    (record,) = records(model).values()
    probe = constant_array(model.graph.initializers[record["probe"]])
    threshold = model.graph.initializers.get(record["threshold"])
    level = constant_array(threshold) if threshold is not None else None
    assert probe is not None
    return probe.astype(np.float64).ravel(), float("nan") if level is None else float(level)


def rollout(net: Net, data: Texts, *, first: bool) -> tuple[list[Doubles], list[Doubles]]:
    """States at the first site, and the log of what reaches the result through each, written plainly."""
    session = Session(net.model(), outputs=["x0", "p1", "p2"])
    states: list[Doubles] = []
    targets: list[Doubles] = []
    for index in range(len(data)):
        seen = session.run(dict(data.feeds(index)))
        count = seen["x0"].shape[1]
        mixed = np.eye(count)
        for name in ("p1", "p2"):
            mixed = (0.5 * seen[name][0].astype(np.float64).mean(0) + 0.5 * np.eye(count)) @ mixed
        row = mixed[0] if first else mixed.mean(0)
        states.append(seen["x0"][0].astype(np.float64))
        targets.append(np.log(row * count))
    return states, targets


@pytest.mark.parametrize("net", [BERT, VIT, Net(head="mean")], ids=["bert", "vit", "mean-pooled"])
def test_a_learned_score_is_the_ridge_regression_on_what_reaches_the_result(net: Net) -> None:
    data = Texts(masked=net.masked, length=net.length)
    states, targets = rollout(net, data, first=net.head == "first")
    x, y = np.concatenate(states), np.concatenate(targets)
    centred = x - x.mean(0)
    pull = STEP.damping * centred.var(0).mean() * len(x) * np.eye(x.shape[1])
    gram: Doubles = np.asarray(centred.T @ centred + pull, np.float64)
    expected: Doubles = np.asarray(np.linalg.inv(gram) @ (centred.T @ (y - y.mean())), np.float64)

    found, _ = weights_of(fitted(net, "learned-0.5"))

    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_threshold_keeps_its_share_on_average() -> None:
    model, data = fitted(BERT, "threshold-0.4"), Texts()
    (select,) = records(model)
    session = Session(model, outputs=[select.outputs[1].name or "", "x0_every"])
    weight, level = weights_of(model)

    kept: list[int] = []
    there = 0
    for index in range(len(data)):
        seen = session.run(dict(data.feeds(index)))
        valid, states = seen[session.outputs[0]], seen["x0_every"][0].astype(np.float64)
        above = int((states[1:] @ weight > level).sum()) + 1  # the first token stays
        assert int(valid.sum()) == above
        kept.append(above)
        there += len(states)

    assert 0.3 < sum(kept) / there < 0.55
    assert len(set(kept)) > 2


@pytest.mark.parametrize("setting", ["learned-0.5", "threshold-0.4"])
@pytest.mark.parametrize("net", [BERT, VIT, Net(head="tokens")], ids=["bert", "vit", "a-result-a-token"])
def test_samples_do_not_see_each_other(net: Net, setting: str) -> None:
    session, data = Session(fitted(net, setting)), Texts(masked=net.masked, length=net.length)

    together = session.run(dict(data.batch(range(11), LONGEST + 1 if net.masked else None)))["y"]

    for index in range(11):
        alone = session.run(dict(data.feeds(index)))["y"][0]
        row = together[index, : len(alone)] if net.head == "tokens" else together[index]
        assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_fitting_twice_gives_the_same_and_ends() -> None:
    first, second = fitted(BERT, "learned-0.5"), fitted(BERT, "learned-0.5")

    np.testing.assert_array_equal(weights_of(first)[0], weights_of(second)[0])
    STEP.fit(first, None)  # nothing is open any more


def test_learned_scores_need_data() -> None:
    with pytest.raises(DataError, match="learned scores must be fitted and no data was given"):
        STEP.fit(open_model(BERT, "learned-0.5"), None)


def test_the_original_must_be_at_hand() -> None:
    model = ir.from_proto(ir.to_proto(open_model(BERT, "learned-0.5")))
    with pytest.raises(UsageError, match="apply and fit in one process"):
        STEP.fit(model, Texts())


def test_work_left_is_counted() -> None:
    model, data = BERT.model(), Texts()
    lengths = np.array([len(data.tokens(index)) for index in range(len(data))])
    kept = -(-lengths // 2)

    said = STEP.remaining(model, FactCache(model), Choice(STEP.name, "x0", "keep-0.5"), data)

    assert "q0_p" not in said
    assert "f0" in said
    assert said["f0"] == pytest.approx(kept.sum() / lengths.sum())
    assert said["q2_p"] == said["f0"]
    assert said["r1"] == said["z1"] == pytest.approx((kept**2).sum() / (lengths**2).sum())
    assert "y" not in said


def test_work_left_by_mass_is_counted_by_running() -> None:
    model, data = BERT.model(), Texts()
    choice = Choice(STEP.name, "x0", "mass-0.7")
    changed = clone(model)
    STEP.apply(changed, FactCache(changed), [choice])
    (select,) = records(changed)
    session = Session(changed, outputs=[select.outputs[1].name or ""])
    kept = [int(session.run(dict(data.feeds(i)))[session.outputs[0]].sum()) for i in range(len(data))]
    lengths = [len(data.tokens(index)) for index in range(len(data))]

    said = STEP.remaining(model, FactCache(model), choice, data)

    assert said["f1"] == pytest.approx(sum(kept) / sum(lengths))
    assert 0.3 < said["f1"] < 0.95


@pytest.mark.parametrize("net", [BERT, VIT, Net(head="mean")], ids=["bert", "vit", "mean"])
def test_what_reads_the_result_is_fitted_again(net: Net) -> None:
    data = Texts(masked=net.masked, length=net.length, count=96)
    errors: list[float] = []
    whole = Session(net.model(), outputs=["y"])
    for refitted in (0, 96):
        model = net.model()
        step = PruneTokens(settings=("keep-0.3",), refit_samples=refitted)
        step.apply(model, FactCache(model), [Choice(step.name, "x0", "keep-0.3")])
        before = {name: constant_array(value) for name, value in model.graph.initializers.items()}
        step.fit(model, data)
        changed = {
            name
            for name, value in model.graph.initializers.items()
            if not np.array_equal(np.asarray(before[name]), np.asarray(constant_array(value)))
        }
        assert changed == ({"wy"} if refitted else set())
        cut = Session(model, outputs=["y"])
        feeds = [dict(data.feeds(index)) for index in range(len(data))]
        wrong = [np.subtract(cut.run(feed)["y"], whole.run(feed)["y"]) for feed in feeds]
        errors.append(float(np.mean([np.square(error).mean() for error in wrong])))

    assert errors[1] < 0.9 * errors[0]


def test_no_products_of_one_row_a_sample_nothing_to_fit() -> None:
    net = Net(head="tokens")
    assert row_products(net.model()) == []
    assert row_products(BERT.model()) == ["y"]
