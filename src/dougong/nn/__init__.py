"""Blocks with a name in the literature: knows tensors and seeds; knows no model, task or dataset."""
