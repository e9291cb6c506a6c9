"""Model files: read, checked, written at once or not at all."""
