"""The edge to Hydra: command lines become settings, and errors become one line. Nothing below imports Hydra."""
