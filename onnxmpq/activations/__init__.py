"""Which layers compute in integers, where the user leaves that open."""
