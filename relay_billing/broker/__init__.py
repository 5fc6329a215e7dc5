"""How jobs reach the queue: the broker's options, and the thread that posts."""
