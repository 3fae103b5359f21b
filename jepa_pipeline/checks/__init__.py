"""What can be wrong before a run begins."""
