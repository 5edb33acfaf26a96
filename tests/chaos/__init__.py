"""Faults at random while calls pass, and what must hold all the same."""
