"""What export.py is made of; and the two files that checkpoints carry for transformers, which stand alone."""
