"""Carries rows to the decision and its changes back. Takes no decision of its own."""
