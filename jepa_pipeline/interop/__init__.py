"""Weights that others published as encoders of this package, and encoders of this package in the formats of others."""
