"""Programs that developers use; the packages do not contain them."""
