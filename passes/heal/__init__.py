"""Healing as a step of a plan."""
