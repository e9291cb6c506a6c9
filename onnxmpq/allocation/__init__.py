"""Costs and budgets -> plan."""
