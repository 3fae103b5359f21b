"""Methods: plain networks with `forward(batch) -> Output`, one file a family."""
