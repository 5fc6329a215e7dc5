"""The main job on the embedded defaults: a real relay, a real worker, a real beat, and books that balance."""
