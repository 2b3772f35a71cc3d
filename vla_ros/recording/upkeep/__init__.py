"""DATASETS KEPT WHOLE: damage found and named, repaired beside the old one, small files joined."""
