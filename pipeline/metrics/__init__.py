"""Metrics of segmentation, classification, localization and detection."""
