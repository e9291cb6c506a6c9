"""Rivals of the allocated plan, judged by the network as a whole."""
