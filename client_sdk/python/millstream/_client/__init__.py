"""What every client needs: configuration, connections, metadata, calls with retries."""
