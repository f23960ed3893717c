"""Using a language model: sampling, beam search, decoding over a cache, text in pieces.

Knows models and tokenizers by what they do; knows no recipe and no run folder, and never trains.
"""
