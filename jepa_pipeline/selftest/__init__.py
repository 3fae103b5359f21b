"""Runs that are disturbed from outside, and compared with one that was not."""
