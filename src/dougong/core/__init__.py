"""The ground: configs, contracts, errors, seeds, files and words for the terminal.

Knows the standard library, pydantic and torch; knows no model, task, dataset or recipe.
"""
