"""What a consumer reads: streams, positions, credit, decoding. Sans-IO."""
