"""How good the models are: measured, drawn, written down."""
