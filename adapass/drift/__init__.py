"""Drift: has the stream of exits (or of any categories) left what the certificate was made on?"""

from adapass.drift.monitor import Alarm, Monitor
from adapass.drift.power import samples_to_alarm
from adapass.drift.reference import Reference

__all__ = ["Alarm", "Monitor", "Reference", "samples_to_alarm"]
