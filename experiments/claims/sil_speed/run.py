"""Speed of synthetic-label training against what one would do instead: table, plot, the model of cost, projections.

    python experiments/claims/sil_speed/run.py

Runs are kept in --runs; those that are finished are not done again, so it can be stopped and started.
"""
