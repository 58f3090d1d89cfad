"""Weights with zeros: masks by pattern, the rest updated, and a compact form to store them in."""
