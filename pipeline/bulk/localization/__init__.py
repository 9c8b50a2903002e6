"""Bulk localization: what images show and where, by class activation maps."""
