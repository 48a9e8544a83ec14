"""One file a method. `registry` finds them by their names; see docs/add_a_method.md."""
