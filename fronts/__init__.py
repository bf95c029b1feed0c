"""What is believed of what was found: the front, its statistics, and the trial to take."""
