"""Feature extractors that several architectures share."""
