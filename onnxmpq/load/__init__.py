"""A model file and data on disk as what a compile starts from."""
