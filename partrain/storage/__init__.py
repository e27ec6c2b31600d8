"""Files of a run that are whole or not there, and how they are called."""
