"""Models of transformers' own families, some layers of which have softmap attention."""
