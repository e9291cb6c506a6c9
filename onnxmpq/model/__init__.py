"""Model files, and what can be said of a graph without running it: types, shapes, parts."""
