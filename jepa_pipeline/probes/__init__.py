"""What a frozen encoder knows, and whether it collapsed."""
