"""Charts, picture sheets and HTML pages that report on a run."""
