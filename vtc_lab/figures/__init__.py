"""Figures and tables of a comparison, ready for a paper."""
