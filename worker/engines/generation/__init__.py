"""The kinds that make pictures, each with the stepper that shares its batches."""
