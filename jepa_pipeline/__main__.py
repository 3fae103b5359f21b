"""The `jepa` command as `python -m jepa_pipeline`."""

from jepa_pipeline.cli import main

main()
