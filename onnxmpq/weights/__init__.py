"""Weights: codes and scales, how they are rounded against what the layer sees, how they are packed."""
