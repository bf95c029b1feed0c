"""Who chooses next, and the loop: strategies, the front, executors and the worker."""
