"""`adapass pack` and `adapass unpack`: fine-tunes of one base, stored as what they change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import AllowCode, Json, Quiet, Threads, Verbose
from adapass.cli.output import print_json, print_line, print_note, print_table
from adapass.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapass.deltas.pack import Packed
    from adapass.deltas.tune import Tuned

Base = Annotated[Path, typer.Argument(metavar="BASE.onnx", help="The model that was fine-tuned.")]


def pack(
    base: Base,
    fine: Annotated[Path, typer.Argument(metavar="FINE.onnx", help="The fine-tune, exported alike.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DELTA.adelta", help="What to write.")],
    density: Annotated[
        float | None,
        typer.Option(
            help="Share of the numbers of each tensor that is kept.",
            show_default="0.05; with --data the sparsest that agrees",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Keep every bit: the same model comes back.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Data to choose density and scale on, and to measure agreement."),
    ] = None,
    agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --data: share of the answers that must stay.")
    ] = 0.99,
    threads: Threads = None,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Store a fine-tune as a sparse ternary delta to its base (ComPEFT), or as an exact one."""
    del verbose
    if exact and density not in (None, 1.0):
        raise UsageError(f"--exact keeps everything, --density {density:g} does not; give one of them")
    from adapass.deltas.container import write_delta
    from adapass.deltas.pack import DENSITY
    from adapass.deltas.pack import pack as run_pack
    from adapass.graph.load import load_model

    first, second = load_model(base), load_model(fine)
    tuned: Tuned | None = None
    if data is not None and not exact:
        tuned = _tuned(first, second, data, density, agreement, threads, allow_code=allow_code, quiet=quiet)
        packed = tuned.packed
    else:
        packed = run_pack(first, second, density=DENSITY if density is None else density, exact=exact)
    written = write_delta(packed.delta, output)
    facts = _facts(packed, tuned, fine, written)
    if as_json:
        print_json(facts)
        return
    print_table(("what", "found"), [(key.replace("_", " "), _shown(value)) for key, value in facts.items()])
    if tuned is not None and not tuned.reached:
        print_note(
            f"no density reaches an agreement of {agreement:g}; this is the best, --exact loses nothing"
        )


def unpack(
    base: Base,
    delta: Annotated[Path, typer.Argument(metavar="DELTA.adelta", help="What `adapass pack` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL.onnx", help="What to write.")],
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Make the fine-tune again from its base and a delta; refuses any other base."""
    del verbose
    from adapass.deltas.container import read_delta
    from adapass.deltas.pack import unpack as run_unpack
    from adapass.graph.load import load_model
    from adapass.graph.save import save_model

    found = read_delta(delta)
    save_model(run_unpack(load_model(base), found), output)
    if not quiet:
        kind = "bit for bit the fine-tune" if found.exact else f"the fine-tune at density {found.density:g}"
        print_line(f"{output}: {kind}")


def _tuned(
    base: ir.Model,
    fine: ir.Model,
    data: str,
    density: float | None,
    agreement: float,
    threads: int | None,
    *,
    allow_code: bool,
    quiet: int,
) -> Tuned:
    from adapass.cli.progress import shown_progress
    from adapass.data import load_data
    from adapass.deltas.tune import DENSITIES, tune
    from adapass.driver.material import default_threads

    samples = load_data(data, fine, allow_code=allow_code)
    with shown_progress(quiet) as progress:
        return tune(
            base,
            fine,
            samples,
            densities=DENSITIES if density is None else (density,),
            agreement=agreement,
            threads=default_threads(threads),
            report=progress.step,
        )


def _facts(packed: Packed, tuned: Tuned | None, fine: Path, written: int) -> Mapping[str, object]:
    external = fine.with_name(fine.name + ".data")
    fine_bytes = fine.stat().st_size + (external.stat().st_size if external.is_file() else 0)
    facts: dict[str, object] = {
        "fine_tune_bytes": fine_bytes,
        "delta_bytes": written,
        "times_smaller": fine_bytes / written,
        "exact": packed.delta.exact,
        "density": packed.delta.density,
        "relative_error_of_the_change": packed.relative_error,
    }
    if tuned is not None:
        facts |= {
            "scale": packed.delta.alpha,
            "agreement": tuned.agreement,
            "agreement_of_the_base": tuned.base_agreement,
            "samples_of_the_agreement": tuned.samples,
        }
    return facts


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
