"""`doctor`: looks at a database, and at a relay's caches, before our processes run on it. Changes nothing."""
