"""The service: buffers below a folder, for actors, learners and tools on other machines."""
