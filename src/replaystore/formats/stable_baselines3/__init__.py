"""The pickles of Stable-Baselines3."""
