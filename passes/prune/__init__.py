"""Structured removal: channels, heads, neurons and widths, with the rest fitted to make up for it."""
