"""From a model file to new cases."""
