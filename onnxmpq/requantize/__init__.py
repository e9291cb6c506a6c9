"""The plan's layers rounded once more, each behind quantized ones; the scale of the logits."""
