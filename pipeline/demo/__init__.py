"""The demo's data: procedural, exactly labelled, free of anybody's rights."""
