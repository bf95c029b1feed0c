"""How checkpoints become one: where they lie, whether they fit, and their merge in place, on disk or as a stream."""
