"""Comparisons with programs that the test suite does not install; a person runs them.

First `exports` makes the models, then each `check_...` compares them in the program that its
environment holds. The checks need numpy and that program, not JAX.
"""
