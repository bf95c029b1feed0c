"""How good a model is: lm-eval tasks, scored on a model whose weights change in place."""
