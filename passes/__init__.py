"""Rewrites of a trained model, one file per pass, grouped by family."""
