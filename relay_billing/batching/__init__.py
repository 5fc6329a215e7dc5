"""Gathers concurrent calls into batches; each caller has its own answer. One rule, for threads and for asyncio."""
