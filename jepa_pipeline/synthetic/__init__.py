"""Small labeled images and videos, generated instead of downloaded."""
