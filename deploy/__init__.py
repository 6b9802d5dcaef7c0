"""How the parts are started together."""
