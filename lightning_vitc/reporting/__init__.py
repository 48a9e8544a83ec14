"""Figures and the page of `vitc report`."""
