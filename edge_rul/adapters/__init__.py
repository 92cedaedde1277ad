"""Adapters: each knows the core and one outside thing, never another adapter."""
