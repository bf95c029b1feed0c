"""What is asked and what came of it: frozen nouns, states and errors. Depends on pydantic alone."""
