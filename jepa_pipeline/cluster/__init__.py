"""Slurm jobs: submitting them, and their state, progress and logs."""
