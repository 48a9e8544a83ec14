"""Networks that decide from the image which of their branches run."""
