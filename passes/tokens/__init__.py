"""Tokens: what the rest of a network need not read is dropped, merged, or goes around a part of it."""
