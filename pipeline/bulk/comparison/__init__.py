"""The comparison of two finished runs: classes, pictures, and the drift of what the pictures show."""
