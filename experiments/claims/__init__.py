"""Claims about partrain, each in a folder with the script that tests it, its table, its plot and what was found."""
