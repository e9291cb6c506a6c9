"""The plan of least cost within all budgets, solved as an integer programme."""
