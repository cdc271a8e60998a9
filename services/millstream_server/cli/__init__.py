"""The command line ``millstream``: on top of the SDK's public API; services are imported only by
the commands that run or read them."""
