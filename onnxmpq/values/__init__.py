"""What stages hand to each other: frozen, keyed by names; no session, graph or path among them."""
