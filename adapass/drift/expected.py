"""The exits an artifact took on its certify samples, as a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapass.drift.reference import Reference

if TYPE_CHECKING:  # the artifact's runtime imports this module
    from adapass.artifact.manifest import Manifest


def exit_reference(manifest: Manifest, point: str | None = None) -> Reference | None:
    """The reference of the default operating point, or of ``point`` (a name, no alias); ``None``: not known.

    Raises:
        UsageError: the shares are not those of the certify samples.

    """
    exits, certificate = manifest.exits, manifest.certificate
    if point is not None:
        certificate = next((each.certificate for each in manifest.points if each.name == point), None)
        exits = next((each.exits for each in manifest.point_measures if each.name == point), None)
    entries = certificate or {}
    samples = entries.get("samples", manifest.quality.samples if manifest.quality else None)
    position = entries.get("position", 0)
    if exits is None or not isinstance(samples, int) or not isinstance(position, int):
        return None
    return Reference.from_shares(exits.shares, samples, position)
