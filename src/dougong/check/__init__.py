"""What is proved before a run, on the user's own recipe and data: one file per equivalence.

Each has one function from a `Subject` to a `Result`. Knows training and its parts through their contracts; does not
know how a recipe becomes a subject, nor what a terminal is.
"""
