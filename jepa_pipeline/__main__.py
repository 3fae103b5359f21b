"""`python -m jepa_pipeline`: the `jepa` command, for this interpreter."""

from jepa_pipeline.cli import main

main()
