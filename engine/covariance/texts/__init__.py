"""Short texts of retcon's own writing, for the demo and for a first edit (`--texts shipped`)."""
