"""Where jobs run: in this process (`LocalExecutor`) or on Ray actors (`RayExecutor`)."""
