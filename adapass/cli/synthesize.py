"""`adapass synthesize`: calibration samples from a model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapass.cli.options import Json, Model, Quiet, Seed, Verbose
from adapass.cli.output import print_json, print_line


def synthesize(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SAMPLES.npz", help="What to write.")],
    count: Annotated[int, typer.Option("--samples", min=2, help="How many samples.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps of optimisation for every 32 samples.")] = 200,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Make samples whose activations match a model's batch normalisations, for --data where there is none.

    They calibrate ranges better than noise does. They are marked in the file: nothing is certified on them.
    """
    del verbose
    import numpy as np

    from adapass.cli.progress import shown_progress
    from adapass.data.archive import write_npz
    from adapass.data.load import SYNTHETIC
    from adapass.errors import UsageError
    from adapass.graph.load import load_model
    from adapass.synthetic.synthesize import synthesize as run_synthesize

    if output.suffix != ".npz":
        raise UsageError(f"--output is '{output}', a name that ends in .npz expected")
    with shown_progress(quiet) as progress:
        found = run_synthesize(load_model(model), count=count, steps=steps, seed=seed, report=progress.step)
    write_npz(output, {**found.samples.arrays, SYNTHETIC: np.array([True])})
    facts = {
        "samples": len(found.samples),
        "batch_normalisations": found.values,
        "distance_of_noise": found.before,
        "distance": found.after,
    }
    if as_json:
        print_json(facts)
        return
    print_line(
        f"{output}: {len(found.samples)} synthetic samples, matched to {found.values} batch normalisations; "
        f"distance of their statistics {found.after:.3g}, of noise {found.before:.3g}"
    )
