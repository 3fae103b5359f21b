"""The only room that drives Lightning."""
