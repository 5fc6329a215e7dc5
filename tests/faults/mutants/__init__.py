"""The product with one guarantee taken out; the harness has to notice."""
