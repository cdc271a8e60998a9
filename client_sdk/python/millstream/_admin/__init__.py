"""The admin clients: flows of calls, written once, driven by both families."""
