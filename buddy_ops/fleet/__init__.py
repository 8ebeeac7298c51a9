"""Several targets as one: each is an alias of a function in a region and an account."""
