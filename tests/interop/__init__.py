"""Other libraries, run with what cmsched gives them."""
