"""Bulk runs on Ray Data: plan, stream, write, finish. See docs/decisions.md and docs/bulk.md."""
