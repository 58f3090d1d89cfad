"""Generators: each turns an optimized graph into something that runs on a target."""
