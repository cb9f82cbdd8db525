"""Sensors: each a pure plan over what is materialized, open and failed, and a thin loop around it."""
