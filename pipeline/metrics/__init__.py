"""Metrics of segmentation, classification and localization."""
