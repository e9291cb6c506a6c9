"""What a compile may spend. A kind of budget is a value in a file of its own, and a line in `table.KINDS`."""
