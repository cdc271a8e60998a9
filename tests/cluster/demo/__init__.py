"""``make demo``: real log lines through a cluster of separate processes, and proof that nothing was
lost, duplicated, reordered or left uncommitted."""
