"""The colours of all figures, on pages and in files."""

# Okabe and Ito's colours, told apart by colour-blind people too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
