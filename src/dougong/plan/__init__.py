"""What a recipe will cost, told before it runs: counted on the meta device, nothing executed.

Knows recipes, models and optimizers; allocates nothing.
"""
