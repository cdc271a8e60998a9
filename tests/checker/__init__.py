"""Judges histories of clients: what was sent, acknowledged and read, and what may not happen."""
