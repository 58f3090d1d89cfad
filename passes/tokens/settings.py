"""What can be chosen at one site: which tokens stay, how many, and what becomes of the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

PER_MILLE = 1000
_FORM = re.compile(r"(?P<rule>[a-z]+)-(?P<share>0\.\d{1,3}|1(\.0{1,3})?)")


class Score(StrEnum):
    """What says how much a token matters."""

    AUTO = "auto"
    """``class-token`` where the result is read from the first token, else ``received``."""
    CLASS_TOKEN = "class-token"
    """Attention of the first token times the length of the value (ATS)."""
    RECEIVED = "received"
    """Attention received from all real tokens."""
    SIMILARITY = "similarity"
    """Every second token by how little it resembles the others, by its key (token merging)."""
    LEARNED = "learned"
    """A linear probe of the token's state, fitted to the attention the token will receive later."""


class Rule(StrEnum):
    """How many tokens stay, and where the others go."""

    KEEP = "keep"
    """The best share of a sample's real tokens; the others are dropped."""
    MERGE = "merge"
    """The same; the others are merged into the most similar ones that stay."""
    BYPASS = "bypass"
    """The same; the others skip all layers up to the next site and come back."""
    MASS = "mass"
    """As many as hold this share of the sum of a sample's scores: more where the scores are even."""
    LEARNED = "learned"
    """As ``keep``, by the learned score."""
    THRESHOLD = "threshold"
    """Those whose learned score is above a threshold: this share on average, not of each sample."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A parsed setting, such as ``keep-0.7``."""

    rule: Rule
    share_per_mille: int

    @property
    def share(self) -> float:
        return self.share_per_mille / PER_MILLE

    @property
    def is_learned(self) -> bool:
        """Whether its score is the learned one, whatever the others use."""
        return self.rule in (Rule.LEARNED, Rule.THRESHOLD)

    @property
    def is_even(self) -> bool:
        """Whether samples of equal length keep equally many tokens."""
        return self.rule not in (Rule.MASS, Rule.THRESHOLD)

    @staticmethod
    def parse(text: str) -> Setting:
        """Raises ``ValueError`` for text that is no setting."""
        found = _FORM.fullmatch(text)
        share = 0 if found is None else round(float(found["share"]) * PER_MILLE)
        if found is None or found["rule"] not in set(Rule) or share == 0:
            raise ValueError(
                f"'{text}' is no setting; give one of {', '.join(Rule)} and a share above 0 up to 1, "
                "such as keep-0.7"
            )
        return Setting(Rule(found["rule"]), share)
