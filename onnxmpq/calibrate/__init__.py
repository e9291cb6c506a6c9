"""The range of each quantized tensor, by any of the calibrators."""
