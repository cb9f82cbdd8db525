"""Continuous fine-tuning as Dagster assets: from a dropped file to a served model."""
