"""The page of `vitc report`."""
