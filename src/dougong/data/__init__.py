"""From files to batches: sources, tokenizers, shards, datasets and the order in which examples come.

Knows text and numbers; knows no model, task or training step.
"""
