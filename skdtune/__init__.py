"""The search system: a search space in YAML, Optuna, Ray Tune and MLflow around `trainables`."""

__version__ = "0.1.0"
