"""The geometry of the task a JEPA is asked."""
