"""Reports: the tables on the console, the plots, and the HTML pages of runs."""
