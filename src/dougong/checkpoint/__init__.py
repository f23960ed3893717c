"""What a trained model leaves on disk: weights in Hugging Face's layout, and the state of a run.

Knows files and tensors; finds models by name and knows none.
"""
