"""Model files, and what can be said of a graph: its shapes, types, values and parts."""
