"""A consumer as a member of its group: session, ownership, commits. Sans-IO."""
