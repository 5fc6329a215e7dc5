"""Gathers concurrent calls into batches; each caller gets its own answer. One rule, for threads and for asyncio."""
