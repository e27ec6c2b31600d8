"""Packs train many networks in one process, and those of one shape as a single batched computation."""
