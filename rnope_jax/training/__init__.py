"""Training: `state`, `step`, `optimizer`, `loss` and `schedule`; the `loop` and what it begins from (`start`).

Names are imported from the module that defines them: what only compiles a step does without checkpoints.
"""
