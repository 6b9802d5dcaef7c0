"""One engine per family of models. They know specs and errors, no infrastructure."""
