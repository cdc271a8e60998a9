"""Simulations: many seeds, virtual time, real decisions."""
