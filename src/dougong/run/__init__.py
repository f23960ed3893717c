"""The verbs as functions: what the command line calls and what Python code may call as well.

Opens or creates a run folder, wires the parts that a recipe names, and hands them to training or inference.
"""

from dougong.run.checking import Check, check
from dougong.run.doctor import doctor
from dougong.run.evaluation import evaluate
from dougong.run.generation import generate, load
from dougong.run.inventory import inventory
from dougong.run.training import Resume, Run, train

__all__ = ["Check", "Resume", "Run", "check", "doctor", "evaluate", "generate", "inventory", "load", "train"]
