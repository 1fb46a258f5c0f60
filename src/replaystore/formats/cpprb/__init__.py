"""Transitions that cpprb saved."""
