"""A plan and its weights as a model, and how many bytes that takes."""
