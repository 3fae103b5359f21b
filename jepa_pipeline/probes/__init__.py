"""Evaluation of frozen encoders: probes, energies and collapse metrics."""
