"""Training: mini-batch gradient descent, its checks, its records and its exact resume.

Knows tasks and models through their contracts alone; knows no dataset, recipe or command line. `config.py` imports
no torch, so that a recipe is checked quickly.
"""
