"""Networks, built of timm's parts and named in timm's words."""
