"""The demo: a real relay, worker and beat on SQLite and files, and a proof of every balance."""
