"""Slurm: what is queued, and what becomes of it."""
