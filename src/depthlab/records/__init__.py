"""What a run leaves on disk: its name, its directory, its record, its curves and its checkpoints."""
