"""Many writes under watchers while history is forgotten: does anything grow that should not?

`python -m bench.soak` runs it. What it finds is a table of samples and a verdict.
"""
