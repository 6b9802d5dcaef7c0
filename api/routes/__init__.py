"""One file per resource; each declares its routes and holds their views."""
