"""Heartbeats and state files of this host's worker and beat, and the health checks that read them."""
