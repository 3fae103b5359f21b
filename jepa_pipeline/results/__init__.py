"""Results on disk and tables of them: read without torch, so that `jepa table` starts at once."""
