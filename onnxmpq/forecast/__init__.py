"""How much work lies ahead of a compile."""
