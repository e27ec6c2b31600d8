"""Hydra's edge of partrain: schemas for `conf/`, settings out of a configuration, errors in one line."""
