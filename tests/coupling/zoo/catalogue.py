"""Every architecture of the zoo by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Mapping

from tests.coupling.zoo.architecture import Architecture
from tests.coupling.zoo.classics import CLASSICS
from tests.coupling.zoo.convnets import CONVNETS
from tests.coupling.zoo.decoders import DECODERS
from tests.coupling.zoo.encoders import ENCODERS
from tests.coupling.zoo.pyramids import PYRAMIDS
from tests.coupling.zoo.sequences import SEQUENCES
from tests.coupling.zoo.translators import TRANSLATORS
from tests.coupling.zoo.vision import VISION

FAMILIES: Mapping[str, tuple[Architecture, ...]] = {
    "text encoders": ENCODERS,
    "language models": DECODERS,
    "encoder-decoder, speech": TRANSLATORS,
    "vision transformers": VISION,
    "vision pyramids": PYRAMIDS,
    "convolutional": CONVNETS,
    "hand-written classics": CLASSICS,
    "hand-written sequences": SEQUENCES,
}
ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture for family in FAMILIES.values() for architecture in family
}
