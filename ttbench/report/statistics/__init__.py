"""Intervals and tests, and simulations of how often they hold."""
