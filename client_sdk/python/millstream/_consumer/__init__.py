"""The consumers: one sans-IO core, an asyncio and a threaded driver around it."""
