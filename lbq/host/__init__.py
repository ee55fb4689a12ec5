"""Everything that changes the machine: rules, sets, sysctls, addresses, and undoing them."""
