"""Plan (pure), execute, commit: how a dataset under a recipe becomes a feature set."""
