"""distill and heal: closer to the original on held-out samples, the same every time, no labels read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Samples
from adapass.data import load_data
from adapass.errors import DataError, ModelError, UsageError
from adapass.graph.digest import digest
from adapass.graph.text import parse
from adapass.healing.settings import Settings

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.healing.blockwise import segments  # noqa: E402
from adapass.healing.distill import distill  # noqa: E402
from adapass.healing.heal import heal  # noqa: E402
from adapass.healing.schedule import prune_and_heal  # noqa: E402
from adapass.progress import Silent  # noqa: E402

QUICK = Settings(block_epochs=3, steps=80, judgements=8, batch_size=16, rate=2e-2, block_rate=3e-2)
BLOCKS = Settings(block_epochs=6, steps=0, batch_size=16, block_rate=3e-2)
WHOLE = Settings(block_epochs=0, steps=80, judgements=8, batch_size=16, rate=2e-2)


def array(model: ir.Model, name: str) -> Any:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("settings", [BLOCKS, WHOLE, QUICK], ids=["blocks", "whole", "both"])
def test_brings_the_pruned_model_closer(
    original: ir.Model, pruned: ir.Model, samples: Samples, settings: Settings
) -> None:
    before = digest(original), digest(pruned)

    healed = distill(original, pruned, samples, settings=settings)

    assert healed.after < 0.5 * healed.before
    assert (digest(original), digest(pruned)) == before
    assert array(healed.model, "a1").shape == array(pruned, "a1").shape


def test_blocks_end_where_the_original_can_be_cut(original: ir.Model, pruned: ir.Model) -> None:
    found = segments(original, pruned)

    assert [segment.ends for segment in found] == [("h1",), ("h2",), ("y",)]
    assert found[0].reads == ("x",)
    assert found[1].reads == ("h1", "x")


def test_every_block_comes_closer(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    blocks = distill(original, pruned, samples, settings=BLOCKS).blocks

    assert list(blocks) == ["h1", "h2", "y"]
    assert all(learned.after < learned.before for learned in list(blocks.values())[:2])


def test_the_seed_decides(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    first, again, other = (
        digest(distill(original, pruned, samples, settings=QUICK, seed=seed).model) for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


def test_leaves_the_settings_of_torch_alone(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    state = torch.random.get_rng_state().clone()
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    distill(original, pruned, samples, settings=QUICK)

    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.random.get_rng_state(), state)


class Interrupting(Silent):
    """Stops the run in its end-to-end phase, after so many steps."""

    def __init__(self, after: int) -> None:
        self._after, self._whole = after, False

    def phase(self, name: str, index: int, total: int) -> None:
        del index, total
        self._whole = name == "healing as a whole"

    def step(self, done: int, total: int, note: str = "") -> None:
        del total
        assert "about" in note
        if self._whole and done == self._after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("rank", [0, 2], ids=["weights", "corrections"])
def test_goes_on_where_it_was_interrupted(
    original: ir.Model, pruned: ir.Model, samples: Samples, tmp_path: Path, rank: int
) -> None:
    settings = Settings(block_epochs=2, steps=60, judgements=6, batch_size=16, rate=2e-2, rank=rank)
    file = tmp_path / "state.npz"
    undisturbed = distill(original, pruned, samples, settings=settings)

    with pytest.raises(KeyboardInterrupt):
        distill(
            original, pruned, samples, settings=settings, checkpoint=file, progress=Interrupting(after=30)
        )
    assert file.is_file()
    resumed = distill(original, pruned, samples, settings=settings, checkpoint=file)

    assert digest(resumed.model) == digest(undisturbed.model)
    assert not file.exists()


def test_refuses_the_checkpoint_of_another_run(
    original: ir.Model, pruned: ir.Model, samples: Samples, tmp_path: Path
) -> None:
    file = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        distill(original, pruned, samples, settings=WHOLE, checkpoint=file, progress=Interrupting(after=20))

    with pytest.raises(DataError, match="belongs to another healing run"):
        distill(original, pruned, samples, settings=WHOLE, checkpoint=file, seed=5)
    np.savez(file, other=np.zeros(2))
    with pytest.raises(DataError, match="no checkpoint of a healing run"):
        distill(original, pruned, samples, settings=WHOLE, checkpoint=file)


def test_corrections_have_low_rank(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    settings = Settings(block_epochs=0, steps=60, batch_size=16, rate=1e-2, rank=2)

    healed = distill(original, pruned, samples, settings=settings)

    change = array(healed.model, "w0") - array(pruned, "w0")
    sizes = np.linalg.svd(change, compute_uv=False)
    assert healed.after < healed.before
    assert sizes[1] > 1e-3 > 1e-5 > sizes[2]


def test_masked_weights_stay_at_zero(original: ir.Model, samples: Samples) -> None:
    masked = original.clone()
    zeros: Any = np.random.default_rng(0).integers(0, 2, (8, 12)) == 1
    masked.graph.initializers["a1"].const_value = ir.tensor(
        np.where(zeros, np.float32(0), array(masked, "a1")), name="a1"
    )

    kept = distill(original, masked, samples, settings=QUICK).model
    filled = distill(original, masked, samples, settings=Settings(steps=20, keep_zeros=False)).model

    assert (array(kept, "a1")[zeros] == 0).all()
    assert (array(kept, "a1") != array(masked, "a1"))[~zeros].any()
    assert (array(filled, "a1")[zeros] != 0).any()


def test_stops_in_time_with_what_it_has(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    healed = distill(original, pruned, samples, settings=Settings(max_seconds=1e-6))

    assert healed.whole is None
    assert healed.after == healed.before
    assert digest(healed.model) == digest(pruned)


def test_a_learning_rate_out_of_bounds_does_no_harm(
    original: ir.Model, pruned: ir.Model, samples: Samples
) -> None:
    healed = distill(original, pruned, samples, settings=Settings(block_epochs=0, steps=20, rate=1e18))

    assert healed.after <= healed.before
    assert np.isfinite(array(healed.model, "a1")).all()


def test_refuses_models_with_other_outputs(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    pruned.graph.outputs[0].name = "other"
    with pytest.raises(UsageError, match=r"the original has \['y'\], the rewritten model \['other'\]"):
        distill(original, pruned, samples)


def test_refuses_what_has_no_twin_before_any_work(original: ir.Model, samples: Samples) -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "com.example": 1]>
        g (float[N, 8] x) => (float[N, 4] y) { y = com.example.Magic(x) }
    """
    with pytest.raises(ModelError, match=r"com\.example::Magic"):
        distill(original, parse(text), samples)


def test_heal_keeps_what_is_better_and_nothing_else(
    original: ir.Model, pruned: ir.Model, samples: Samples
) -> None:
    better = heal(original, pruned, samples, steps=60, settings=WHOLE)
    same = heal(original, original, samples, steps=20, settings=WHOLE)

    assert better.helped
    assert digest(better.model) != digest(pruned)
    assert not same.helped
    assert digest(same.model) == digest(original)


def test_a_time_becomes_steps_that_give_the_same_again(
    original: ir.Model, pruned: ir.Model, samples: Samples
) -> None:
    timed = heal(original, pruned, samples, seconds=1.0, settings=WHOLE)
    again = heal(original, pruned, samples, steps=timed.settings.steps, settings=WHOLE)

    assert timed.settings.steps > 1
    assert timed.stopped or digest(again.model) == digest(timed.model)
    assert again.to_json()["steps"] == timed.to_json()["steps"]


def test_a_time_with_steps_is_a_limit(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    healed = heal(original, pruned, samples, steps=10**6, seconds=0.3, settings=WHOLE)

    assert healed.stopped
    assert healed.whole is None or healed.whole.steps < 10**6  # on a busy machine the first one never began


def test_an_interrupted_time_goes_on_with_its_steps(
    original: ir.Model, pruned: ir.Model, samples: Samples, tmp_path: Path
) -> None:
    file = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        heal(original, pruned, samples, steps=60, settings=WHOLE, checkpoint=file, progress=Interrupting(30))

    resumed = heal(original, pruned, samples, seconds=50.0, settings=WHOLE, checkpoint=file)

    assert resumed.settings.steps == 60
    assert digest(resumed.model) == digest(heal(original, pruned, samples, steps=60, settings=WHOLE).model)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "give steps or seconds"), ({"seconds": 0}, "0 seconds given"), ({"steps": 0}, "0 steps given")],
)
def test_heal_needs_time(
    original: ir.Model, pruned: ir.Model, samples: Samples, given: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        heal(original, pruned, samples, **given)  # type: ignore[arg-type]


def test_blocks_come_first_only_where_the_model_is_far_off(
    original: ir.Model, pruned: ir.Model, samples: Samples
) -> None:
    far = original.clone()
    far.graph.initializers["head"].const_value = ir.tensor(-4 * array(original, "head"), name="head")

    assert heal(original, far, samples, steps=20).blocks
    assert not heal(original, pruned, samples, steps=20).blocks


def test_a_rate_that_does_harm_is_taken_back(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    settings = Settings(block_epochs=0, steps=200, batch_size=16, rate=3.0)
    near = distill(original, pruned, samples, settings=WHOLE).model

    healed = distill(original, near, samples, settings=settings)

    assert healed.whole is not None
    assert max(healed.whole.losses) > 2 * healed.before  # it did harm
    assert healed.helped


def test_running_means_are_closer(original: ir.Model, pruned: ir.Model, samples: Samples) -> None:
    near = distill(original, pruned, samples, settings=WHOLE).model
    noisy = Settings(block_epochs=0, steps=120, batch_size=4, rate=5e-2, judgements=2, average=0.0)

    alone = distill(original, near, samples, settings=noisy).whole
    means = distill(original, near, samples, settings=replace(noisy, average=0.2)).whole

    assert means is not None
    assert alone is not None
    assert means.losses[0] < alone.losses[0]  # half-way, at a high learning rate


def test_tables_stay_unless_asked_for() -> None:
    values = ", ".join(f"{x:.4f}" for x in np.random.default_rng(1).standard_normal(40))
    model = parse(
        f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (int64[N, T] ids) => (float[N, 2] y)
        <float[20, 2] table = {{{values}}}, float[2, 2] w = {{1.0, 0.0, 0.0, 1.0}}, int64[1] axis = {{1}}> {{
            e = Gather(table, ids)
            s = ReduceSum <keepdims: int = 0> (e, axis)
            y = MatMul(s, w)
        }}
        """
    )
    random = np.random.default_rng(0)
    data = load_data({"ids": random.integers(0, 20, (60, 6))}, model)
    worse = model.clone()
    worse.graph.initializers["w"].const_value = ir.tensor(np.eye(2, dtype=np.float32)[::-1] * 1.0, name="w")

    kept = distill(model, worse, data, settings=Settings(steps=30, rate=3e-2))
    moved = distill(model, worse, data, settings=Settings(steps=30, rate=3e-2, tables=True))

    assert kept.helped
    assert (array(kept.model, "table") == array(model, "table")).all()
    assert (array(moved.model, "table") != array(model, "table")).any()


def test_a_little_at_a_time(
    original: ir.Model, samples: Samples, narrow: Callable[[ir.Model, int], ir.Model]
) -> None:
    seen: list[ir.Model] = []

    def prune(model: ir.Model, step: int) -> ir.Model:
        seen.append(model)
        return narrow(model, 9 - 3 * step)

    result = prune_and_heal(original, prune, samples, steps=2, settings=QUICK)

    assert seen[0] is original
    assert digest(seen[1]) == digest(result.steps[0].model)
    assert array(result.model, "a1").shape == (8, 6)
    assert result.steps[1].after < result.steps[1].before


def test_a_little_at_a_time_needs_a_step(original: ir.Model, samples: Samples) -> None:
    with pytest.raises(UsageError, match="0 steps"):
        prune_and_heal(original, lambda model, step: model, samples, steps=0)
