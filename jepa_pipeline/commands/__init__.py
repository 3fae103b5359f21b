"""The commands of `jepa`, a file each; they read like the method section of a paper."""
