"""The verbs as functions: what the command line calls and what Python code may call as well.

Opens or creates a run folder, wires the parts that a recipe names, and hands them to training or inference.
"""

from dougong.run.checking import Check, check
from dougong.run.checkpoints import diff_checkpoints, list_checkpoints, prune_checkpoints, verify_checkpoints
from dougong.run.difference import Comparison, diff
from dougong.run.doctor import doctor
from dougong.run.evaluation import evaluate
from dougong.run.generation import generate, load
from dougong.run.importing import import_weights
from dougong.run.inventory import inventory
from dougong.run.planning import Plan, calibrated, draw, plan
from dougong.run.prediction import predict
from dougong.run.suite import evaluate_code
from dougong.run.training import Run, train
from dougong.train.resume import Resume

__all__ = [
    "Check",
    "Comparison",
    "Plan",
    "Resume",
    "Run",
    "calibrated",
    "check",
    "diff",
    "diff_checkpoints",
    "doctor",
    "draw",
    "evaluate",
    "evaluate_code",
    "generate",
    "import_weights",
    "inventory",
    "list_checkpoints",
    "load",
    "plan",
    "predict",
    "prune_checkpoints",
    "train",
    "verify_checkpoints",
]
