"""What adapass ships, as two literal tables: name -> "module:Class". Nothing is imported until asked for.

Plugins add to them through the entry-point groups ``adapass.passes`` and ``adapass.generators``; a
name that two packages claim is an error that names both.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import cast

from adapass.errors import RecipeError, UsageError
from adapass.generator import Generator
from adapass.rewrite import Pass

PASSES: Mapping[str, str] = MappingProxyType(
    {
        "convolve-shortcuts": "adapass.passes.clean.convolve_shortcuts:ConvolveShortcuts",
        "equalize-channels": "adapass.passes.quantize.rescaling.equalize_channels:EqualizeChannels",
        "factorize": "adapass.passes.lowrank.factorize:Factorize",
        "fold-batch-norm": "adapass.passes.clean.fold_batch_norm:FoldBatchNorm",
        "fold-constants": "adapass.passes.clean.fold_constants:FoldConstants",
        "fold-output-scale": "adapass.passes.clean.fold_output_scale:FoldOutputScale",
        "fuse-clips": "adapass.passes.clean.fuse_clips:FuseClips",
        "fuse-gelu": "adapass.passes.clean.fuse_gelu:FuseGelu",
        "fuse-layer-norm": "adapass.passes.clean.fuse_layer_norm:FuseLayerNorm",
        "fuse-pad-into-conv": "adapass.passes.clean.fuse_pad_into_conv:FusePadIntoConv",
        "heal": "adapass.passes.heal.heal:Heal",
        "insert-exits": "adapass.passes.exits.insert_exits:InsertExits",
        "merge-casts": "adapass.passes.clean.merge_casts:MergeCasts",
        "merge-common-subexpressions": (
            "adapass.passes.clean.merge_common_subexpressions:MergeCommonSubexpressions"
        ),
        "merge-layout-chains": "adapass.passes.clean.merge_layout_chains:MergeLayoutChains",
        "merge-parallel-matmuls": "adapass.passes.clean.merge_parallel_matmuls:MergeParallelMatmuls",
        "prune-structures": "adapass.passes.prune.prune_structures:PruneStructures",
        "prune-tokens": "adapass.passes.tokens.prune_tokens:PruneTokens",
        "quantize-8bit": "adapass.passes.quantize.quantize_8bit:Quantize8bit",
        "quantize-log": "adapass.passes.quantize.logarithmic.quantize_log:QuantizeLog",
        "quantize-weights": "adapass.passes.quantize.weight_only.quantize_weights:QuantizeWeights",
        "remove-blocks": "adapass.passes.prune.remove_blocks:RemoveBlocks",
        "remove-dead-code": "adapass.passes.clean.remove_dead_code:RemoveDeadCode",
        "remove-dead-units": "adapass.passes.prune.remove_dead_units:RemoveDeadUnits",
        "remove-identities": "adapass.passes.clean.remove_identities:RemoveIdentities",
        "remove-redundant-expands": "adapass.passes.clean.remove_redundant_expands:RemoveRedundantExpands",
        "remove-redundant-scatters": "adapass.passes.clean.remove_redundant_scatters:RemoveRedundantScatters",
        "remove-unread-positions": "adapass.passes.prune.remove_unread_positions:RemoveUnreadPositions",
        "remove-zero-bias": "adapass.passes.clean.remove_zero_bias:RemoveZeroBias",
        "simplify-reshapes": "adapass.passes.clean.simplify_reshapes:SimplifyReshapes",
        "skip-feed-forward": "adapass.passes.gates.skip_feed_forward:SkipFeedForward",
        "sparsify": "adapass.passes.sparsify.sparsify:Sparsify",
    }
)

GENERATORS: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "adapass.codegen.onnxruntime.generator:OnnxRuntime",
        "openvino": "adapass.codegen.openvino.generator:OpenVino",
        "tvm": "adapass.codegen.tvm.generator:Tvm",
    }
)


def pass_class(name: str) -> type[Pass]:
    """The pass class called ``name``.

    Raises:
        RecipeError: no such pass; the message lists near matches.

    """
    table = _with_plugins(PASSES, "adapass.passes")
    if name not in table:
        raise RecipeError(f"unknown pass '{name}'{_near(name, table)}; `adapass passes list` shows them all")
    return cast("type[Pass]", _load(table[name]))


def generator(name: str) -> Generator:
    """An instance of the generator called ``name``.

    Raises:
        UsageError: no such generator.

    """
    table = _with_plugins(GENERATORS, "adapass.generators")
    if name not in table:
        raise UsageError(f"unknown backend '{name}'; known: {', '.join(sorted(table))}")
    return cast("Generator", _load(table[name])())


def pass_names() -> tuple[str, ...]:
    return tuple(sorted(_with_plugins(PASSES, "adapass.passes")))


def generator_names() -> tuple[str, ...]:
    return tuple(sorted(_with_plugins(GENERATORS, "adapass.generators")))


def _load(path: str) -> type[object]:
    module, _, name = path.partition(":")
    try:
        return cast("type[object]", getattr(import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{path} cannot be loaded: {error}; repair or uninstall its package") from error


def _with_plugins(own: Mapping[str, str], group: str) -> dict[str, str]:
    table = dict(own)
    origin = dict.fromkeys(own, "adapass")
    for entry in entry_points(group=group):
        owner = entry.dist.name if entry.dist is not None else entry.value
        if entry.name in table:
            raise UsageError(
                f"'{entry.name}' in group {group} is claimed by {origin[entry.name]} and by {owner}; "
                "uninstall one"
            )
        table[entry.name] = entry.value
        origin[entry.name] = owner
    return table


def _near(name: str, table: Mapping[str, str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, table, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
