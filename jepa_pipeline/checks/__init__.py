"""Checks of what would stop a run, before it begins."""
