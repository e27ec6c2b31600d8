"""The colours of all figures, on pages and in PNG files."""

# The palette of Okabe and Ito, whose colours people with colour blindness can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
