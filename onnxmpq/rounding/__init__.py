"""The weights of every layer at every width: scales, codes, biases."""
