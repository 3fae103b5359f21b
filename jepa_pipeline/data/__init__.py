"""Bytes to Batch. Which sample comes when, and how it is cut, depends on the seed and on the sample's number alone."""
