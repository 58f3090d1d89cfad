"""Streaming second moments of what flows through a model, for importance and closed-form fits."""

from __future__ import annotations

from adapass.moments.second import CrossMoments, Moments, cross_moments, gather, moments
from adapass.moments.sources import Source, Window, window_of

__all__ = [
    "CrossMoments",
    "Moments",
    "Source",
    "Window",
    "cross_moments",
    "gather",
    "moments",
    "window_of",
]
