"""How each model of the embedded family is trained."""
