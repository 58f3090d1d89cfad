"""Exact rewrites: the same function, fewer and better operators."""
