"""HTML pages, picture sheets and thumbnails that report on a run."""
