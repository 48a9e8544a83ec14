"""Budgets by measured latency: where it counts, how it is measured, the table of it, and the fit to a budget."""
