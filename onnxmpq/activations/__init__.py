"""Activations: where Q/DQ pairs go, and the range of each quantized tensor."""
