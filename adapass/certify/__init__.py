"""The certificate: how much quality may have been lost, valid at finite sample size and after the choice."""

from __future__ import annotations

from adapass.certify.bounds import Method, method_for, p_value, upper_bound
from adapass.certify.certificate import Certificate, issue
from adapass.certify.choose import choose_metric, decision_threshold
from adapass.certify.losses import Losses, Metric, losses
from adapass.certify.power import data_message, required_samples, smallest_budget
from adapass.certify.sequence import Verdict, certify

__all__ = [
    "Certificate",
    "Losses",
    "Method",
    "Metric",
    "Verdict",
    "certify",
    "choose_metric",
    "data_message",
    "decision_threshold",
    "issue",
    "losses",
    "method_for",
    "p_value",
    "required_samples",
    "smallest_budget",
    "upper_bound",
]
