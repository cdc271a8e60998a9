"""A whole cluster in one thread: the real classes on a simulated loop, network, disk and quorum."""
