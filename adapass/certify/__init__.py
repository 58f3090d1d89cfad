"""The certificate: how much quality may have been lost, valid at finite sample size and after the choice."""

from __future__ import annotations
