"""Channels of activations made smaller or larger at no cost; the outputs stay what they were."""
