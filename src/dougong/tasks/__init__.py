"""Objectives, one file each: how examples become a batch, a batch a loss, and outputs something a person reads.

The folder is the registry: `task: {name: language_modeling}` finds `language_modeling.py`.
"""
