"""Small labeled images and videos that are made on the spot, with nothing to download."""
