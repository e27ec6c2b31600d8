"""Strategies side by side: a grid of runs, repeated in alternating order, and a table, a summary and a page over them."""
