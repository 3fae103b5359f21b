"""Configurations as typed values. This package must not import torch, so that mistakes are reported at once."""
