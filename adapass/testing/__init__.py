"""Helpers for testing passes: yours and ours."""
