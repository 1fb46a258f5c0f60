"""The pickles of active_rlhf."""
