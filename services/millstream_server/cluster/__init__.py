"""What a node knows of its cluster: the followed image, its session, the metadata service."""
