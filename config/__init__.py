"""Settings from the environment, and what they make of Celery."""
