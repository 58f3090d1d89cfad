"""Calibration samples made from a model alone, where no data can be had."""
