"""Measurements beside other libraries: ratios, taken in turns on one machine. No test; nothing here is shipped."""
