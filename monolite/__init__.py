"""Monolite: a SaaS backend in one executable. ARCHITECTURE.md draws the house."""

__version__ = "0.1.0"
