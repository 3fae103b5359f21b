"""The geometry of the question a JEPA is asked."""
