"""What every node knows of its cluster: the followed image, its own session, the public metadata service."""
