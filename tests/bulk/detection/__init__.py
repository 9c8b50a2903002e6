"""Tests of detection in bulk."""
