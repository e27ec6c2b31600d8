"""Comparisons of strategies: a grid of runs, repeated in alternating order, with tables, a summary and a page of them."""
