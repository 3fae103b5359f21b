"""Short trials of a recipe with other settings: which are tried, how one is timed, and which of them to use."""
