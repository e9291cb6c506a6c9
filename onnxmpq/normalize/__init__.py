"""A graph from any framework as a clean float graph, and its layers."""
