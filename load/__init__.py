"""Load and figures: `python -m load.bench` prints the issue's figures, `python -m load.run` drives Locust."""
