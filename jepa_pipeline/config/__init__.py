"""A run as typed values. Nothing in this room imports torch, so every mistake answers at once."""
