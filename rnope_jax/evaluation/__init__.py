"""What a run shows: figures, its first and its last words."""
