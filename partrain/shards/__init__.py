"""Shard parallelism (arXiv 2107.06469, 2110.08633): shards of many models interleaved over few devices."""
